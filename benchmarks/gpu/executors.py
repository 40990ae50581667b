# SPDX-License-Identifier: Apache-2.0
"""The executor that a measurement runs on: the GPU's, or its emulation to try the program."""

from __future__ import annotations

from enginery.runtime.engine import Engine
from enginery.runtime.executor import Executor


def make_executor(
    engine: Engine, *, emulate: bool, programmatic_launch: bool = True
) -> Executor | None:
    """The executor of an engine's target; None for the built-in one of target cpu.

    Args:
        engine: opened.
        emulate: with no GPU.
        programmatic_launch: of `TensorRTExecutor`.
    """
    if engine.info.target == "cpu":
        return None
    if emulate:
        from enginery.plugins.emulate import EmulatedExecutor

        emulated: Executor = EmulatedExecutor(engine, sku=engine.skus[0])
        return emulated
    from enginery.runtime.executors.cuda.executor import TensorRTExecutor

    return TensorRTExecutor(engine, programmatic_launch=programmatic_launch)
