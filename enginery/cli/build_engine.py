# SPDX-License-Identifier: Apache-2.0
"""The command `build-engine`: the same as `enginery build`."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.cli.main import command_named, run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `build-engine`; see `enginery.cli.main.run_command`."""
    return run_command(command_named("build"), argv, prog="build-engine")
