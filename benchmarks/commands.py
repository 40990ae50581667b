# SPDX-License-Identifier: Apache-2.0
"""The command line of benchmarks that have several commands, each in a module of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any


def run_commands(
    prog: str,
    description: str | None,
    commands: Sequence[tuple[str, Any, str]],
    add_common: Callable[[str, argparse.ArgumentParser], None] = lambda name, parser: None,
) -> int:
    """Parses the command line and runs the command that it names.

    Args:
        prog: how it is called.
        description: for the help.
        commands: name, module and summary of each; the module's `add_arguments` declares what it
            takes, and its function of the command's name runs it and returns the exit status.
        add_common: declares what commands share, given the command's name.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module, summary in commands:
        command = parsers.add_parser(name, help=summary, description=summary)
        add_common(name, command)
        module.add_arguments(command)
        command.set_defaults(run=getattr(module, name))
    args = parser.parse_args()
    status: int = args.run(args)
    return status
