# SPDX-License-Identifier: Apache-2.0
"""The executor that runs an engine for a GPU without one, to check it; it is slow."""

from __future__ import annotations

from enginery.runtime.errors import InvalidArgumentError

EMULATED_EXECUTOR = "enginery.plugins.emulate:EmulatedExecutor"
"""Import string of the factory; its packages come with the extra `emulate`."""


def emulated_executor(target: str) -> str:
    """`EMULATED_EXECUTOR` for an engine of `target`.

    Raises:
        InvalidArgumentError: the target is run by this machine as it is.
    """
    if target == "cpu":
        raise InvalidArgumentError(
            "emulate: the engine is for target 'cpu', which needs no emulation; leave it out"
        )
    return EMULATED_EXECUTOR
