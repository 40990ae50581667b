# SPDX-License-Identifier: Apache-2.0
"""What the executor core asks of a device: memory, launches, copies and nothing of the model.

A GPU and its emulation implement the same protocol, so that what the emulation tests is what the
GPU runs. Work is queued in order on one stream; only `fetch`'s result and `synchronize` wait.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .image import KernelImage, PlanImage, SegmentImage

ELEMENT_BITS = {
    "f32": 32, "bf16": 16, "f16": 16, "f8e4m3": 8, "i8": 8, "i4": 4, "i32": 32, "i64": 64,
}  # fmt: skip
"""Size of the engine format's dtypes, and of i64, which only the executor's own arrays have."""

ALIGNMENT = 256
"""Bytes at which allocations, and what the executor places inside of them, begin."""


@dataclass(frozen=True)
class View:
    """A row-major array in a device's memory."""

    buffer: Any
    """What `Device.allocate`, `Device.upload` or `Staging.buffer` gave."""
    offset: int
    """Bytes from the start of the buffer."""
    dtype: str
    """A key of `ELEMENT_BITS`."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size in memory; two i4 share a byte."""
        return prod(self.shape) * ELEMENT_BITS[self.dtype] // 8

    def rows(self, num_rows: int) -> Self:
        """The same array cut to its first `num_rows` rows."""
        return replace(self, shape=(num_rows, *self.shape[1:]))


Argument = View | int | float
"""An argument of a kernel: the address of a view's first element, or a number."""


class Staging(Protocol):
    """A buffer of the device with a host copy of the same size, for what a step brings along."""

    host: npt.NDArray[np.uint8]
    """uint8 [num_bytes], pinned where that matters, 256-byte aligned. It may be written again
    when everything that was queued before is done."""
    buffer: Any
    """The device's copy, as a `View` takes it."""

    def commit(self, num_bytes: int) -> None:
        """Queues a copy of the first `num_bytes` from the host to the device."""


class SegmentRunner(Protocol):
    """A segment, ready to run with any weights of its shapes."""

    def run(self, rows: int, operands: Mapping[str, View]) -> None:
        """Queues the segment.

        Args:
            rows: of every value: packed tokens, or rows that want logits.
            operands: a view per input and output of the segment, by name. Those of values have
                room for the step limits; only their first `rows` rows are read and written.
        """


class Device(Protocol):
    """One device. Calls come from one thread; errors are raised as soon as they are noticed."""

    name: str
    """For people: messages and `inspect`."""
    providers: tuple[str, ...]
    """What can run a segment here: "native", "onnx", "tensorrt_rtx", "tensorrt"."""

    def allocate(self, what: str, num_bytes: int) -> Any:
        """Returns zeroed memory, 256-byte aligned.

        Raises:
            OutOfMemoryError: names what was to be allocated, its size, and what is free.
        """

    def upload(self, what: str, data: npt.NDArray[np.uint8]) -> Any:
        """Returns memory that holds `data`, uint8 [num_bytes], which may be gone afterwards."""

    def load_kernel(self, kernel: KernelImage) -> Any:
        """Returns a handle for `launch`.

        Raises:
            EngineMismatchError: the kernel is not for this device.
        """

    def load_segment(
        self, segment: SegmentImage, plan: PlanImage | None, provider: str
    ) -> SegmentRunner:
        """Makes a segment ready to run.

        Args:
            segment: its interface and its ONNX.
            plan: compiled by TensorRT; None for providers that need none.
            provider: one of `providers`, but not "native", whose launches the executor makes.
        """

    def launch(self, handle: Any, grid: int, arguments: Mapping[str, Argument]) -> None:
        """Queues a kernel.

        Args:
            handle: of `load_kernel`.
            grid: number of programs, at least 1, along one axis.
            arguments: exactly the parameters of the kernel's signature that are not constexpr, by
                name, in any order. The mapping may be the same object at every launch of a step,
                with other numbers.
        """

    def copy_rows(
        self, view: View, pairs: npt.NDArray[np.int32], row_bytes: int, pitch: int, count: int
    ) -> None:
        """Queues copies of rows within `view`, in order.

        For each (from, to): for i below `count`, `row_bytes` bytes at `from * row_bytes + i *
        pitch` go to `to * row_bytes + i * pitch`.

        Args:
            view: everything that is read and written lies in it.
            pairs: int32 [num_pairs, 2]; read before the call returns.
            row_bytes: size of a row.
            pitch: bytes from a row to the same row of the next plane.
            count: planes.
        """

    def staging(self, num_bytes: int) -> Staging:
        """Returns a staging buffer of zeros."""

    def fetch(self, view: View) -> Callable[[], npt.NDArray[Any]]:
        """Queues a copy of `view` to the host.

        Returns:
            What waits for the copy, and for it alone, and returns the array in `view.shape`. The
            array is valid until the next fetch at the same address. dtypes: f32, i32.
        """

    def run(self, key: Hashable | None, work: Callable[[], None]) -> None:
        """Does `work`, which queues launches and segments and nothing else.

        Args:
            key: None: `work` is called. Else `work` queues the same whenever the key is the same,
                reading what changes from memory: the device may record it once (a CUDA graph) and
                replay the recording from then on. It may also run it any number of times: work
                under a key computes the same when it is repeated.
            work: called at once or not at all.
        """

    def all_reduce(self, views: Sequence[View]) -> None:
        """Replaces each rank's f32 view by their sum, added in rank order.

        Args:
            views: one per rank, of equal shapes, on the devices of one process.
        """

    def all_gather(self, sources: Sequence[View], destinations: Sequence[View]) -> None:
        """Puts the columns of every rank side by side, in rank order, on every rank.

        Args:
            sources: f32 [rows, columns], one per rank.
            destinations: f32 [rows, columns * tp_size], one per rank.
        """

    def synchronize(self) -> None:
        """Waits for everything that was queued."""

    def free_bytes(self) -> tuple[int, int]:
        """Returns (free, total) memory in bytes."""

    def close(self) -> None:
        """Frees everything. Twice is harmless."""
