# SPDX-License-Identifier: Apache-2.0
"""The emulated executor: a tensorrt engine on the CPU, number by number what a GPU computes."""

from __future__ import annotations

from enginery.runtime.engine import Engine
from enginery.runtime.executors.segmented import SegmentedExecutor

from .device import EmulatedDevice


class EmulatedExecutor(SegmentedExecutor):
    """Runs an engine from the bytes of its directory, with the kernels' source beside them.

    Slow: for checks, on tiny models.

    Args:
        engine: of the tensorrt target; stays open until the runtime is made.
        sku: which of the engine's SKUs; None: its only one.
        provider: "onnx": the segments' ONNX in onnxruntime, what the TensorRT plans were compiled
            from; "native": the segments' kernels in the interpreter, what the native provider
            launches.

    Raises:
        EngineFileError, EngineMismatchError: the engine cannot be read, or not be run here.
        ImportError: torch, the Triton language or onnxruntime is not installed.
    """

    def __init__(self, engine: Engine, sku: str | None = None, provider: str = "onnx") -> None:
        devices = [EmulatedDevice(rank) for rank in range(engine.info.tp_size)]
        super().__init__(engine, sku, devices, provider=provider)
