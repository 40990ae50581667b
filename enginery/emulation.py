# SPDX-License-Identifier: Apache-2.0
"""The executor that runs an engine for a GPU without one, to check it; it is slow."""

from __future__ import annotations

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError

EMULATED_EXECUTOR = "enginery.plugins.emulate:EmulatedExecutor"
"""Import string of the factory; its packages come with the extra `emulate`."""


def emulated_executor(engine: Engine, sku: str | None) -> str:
    """`EMULATED_EXECUTOR` for an engine and the SKU to emulate.

    Raises:
        InvalidArgumentError: this machine runs the engine as it is, or which of its SKUs is meant
            is open: no device is there to decide it.
    """
    if engine.info.target == "cpu":
        raise InvalidArgumentError(
            "emulate: the engine is for target 'cpu', which needs no emulation; leave it out"
        )
    if sku is None and len(engine.skus) > 1:
        raise InvalidArgumentError(
            f"emulate: the engine was built for {', '.join(engine.skus)}; choose one with sku"
        )
    return EMULATED_EXECUTOR
