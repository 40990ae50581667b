# SPDX-License-Identifier: Apache-2.0
"""A device that is this machine's CPU: every operation is done when it is queued."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.executors.device import Argument, SegmentRunner, View
from enginery.runtime.executors.image import KernelImage, PlanImage, SegmentImage

from .interpreter import InterpretedKernel
from .memory import array_of, bytes_of, free_bytes, zeros

FETCHED = {"f32": np.float32, "i32": np.int32}


class EmulatedStaging:
    """Host and device copies are two arrays, so that what is not committed does not arrive."""

    def __init__(self, num_bytes: int) -> None:
        self.host = zeros("staging", num_bytes)
        self.buffer = zeros("staging", num_bytes)

    def commit(self, num_bytes: int) -> None:
        """Copies at once."""
        self.buffer[:num_bytes] = self.host[:num_bytes]


class OnnxRunner:
    """A segment's ONNX in onnxruntime, over the executor's memory."""

    def __init__(self, segment: SegmentImage) -> None:
        from .onnx_segment import OnnxSegment

        self._segment = OnnxSegment(segment.onnx)
        operands = (*segment.inputs, *segment.outputs)
        self._values = {operand.name for operand in operands if operand.is_value}

    def run(self, rows: int, operands: Mapping[str, View]) -> None:
        """Computes at once."""
        self._segment.run(
            rows,
            {
                name: bytes_of(view.rows(rows) if name in self._values else view)
                for name, view in operands.items()
            },
        )


class EmulatedDevice:
    """One rank's device; see `Device`. All ranks live in one process.

    Args:
        rank: for the device's name.
    """

    providers: tuple[str, ...] = ("native", "onnx")

    def __init__(self, rank: int = 0) -> None:
        self.name = f"emulated device {rank}"

    def allocate(self, what: str, num_bytes: int) -> Any:
        """Zeros of this process."""
        return zeros(what, num_bytes)

    def upload(self, what: str, data: npt.NDArray[np.uint8]) -> Any:
        """A copy."""
        buffer = zeros(what, data.size)
        buffer[:] = data
        return buffer

    def load_kernel(self, kernel: KernelImage) -> Any:
        """Its source, after its hash was compared with the engine's."""
        return InterpretedKernel(kernel)

    def load_segment(
        self, segment: SegmentImage, plan: PlanImage | None, provider: str
    ) -> SegmentRunner:
        """The ONNX, whatever was compiled from it."""
        assert provider == "onnx"
        return OnnxRunner(segment)

    def launch(self, handle: Any, grid: int, arguments: Mapping[str, Argument]) -> None:
        """Interprets."""
        handle.launch(grid, arguments)

    def copy_rows(
        self, view: View, pairs: npt.NDArray[np.int32], row_bytes: int, pitch: int, count: int
    ) -> None:
        """Copies at once, pair by pair."""
        planes = bytes_of(view)[: pitch * count].reshape(count, -1, row_bytes)
        for source, destination in pairs:
            planes[:, destination] = planes[:, source]

    def staging(self, num_bytes: int) -> EmulatedStaging:
        """Two arrays."""
        return EmulatedStaging(num_bytes)

    def fetch(self, view: View) -> Callable[[], npt.NDArray[Any]]:
        """A copy as of now."""
        array = array_of(view, FETCHED[view.dtype]).copy()
        return lambda: array

    def run(self, key: Hashable | None, work: Callable[[], None]) -> None:
        """Records nothing."""
        work()

    def all_reduce(self, views: Sequence[View]) -> None:
        """Adds in rank order."""
        arrays = [array_of(view, np.float32) for view in views]
        total = arrays[0].copy()
        for array in arrays[1:]:
            total += array
        for array in arrays:
            array[:] = total

    def all_gather(self, sources: Sequence[View], destinations: Sequence[View]) -> None:
        """Copies every rank's columns."""
        columns = np.concatenate([array_of(view, np.float32) for view in sources], axis=1)
        for view in destinations:
            array_of(view, np.float32)[:] = columns

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def free_bytes(self) -> tuple[int, int]:
        """Of this machine."""
        return free_bytes()

    def close(self) -> None:
        """Memory goes with what refers to it."""
