# SPDX-License-Identifier: Apache-2.0
"""One GPU as a `Device`: memory, launches, copies and graphs on one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineMismatchError
from ..device import Argument, SegmentRunner, View
from ..image import KernelImage, PlanImage, SegmentImage
from .driver import Driver
from .graphs import GraphCache
from .kernel import CudaKernel
from .memory import DeviceMemory, HostStaging, PinnedMemory, Progress, upload
from .plan_runner import PLAN_PACKAGES, PlanLoader

_FETCHED = {"f32": np.dtype(np.float32), "i32": np.dtype(np.int32)}
_CURRENT = threading.local()
"""`key`: of the device whose context was made current last on a thread."""


class CudaDevice:
    """A GPU, in its primary context, which other libraries of the process share.

    Calls may come from several threads, one at a time; a thread's first call makes the context
    current there, and so does its first one after it called another device.

    Args:
        ordinal: number of the GPU among the visible ones.
        driver: None: the process's.
        cuda_graphs: whether `run` records work that comes again.
        programmatic_launch: whether kernels that can come onto the GPU while the one before them
            ends.
        cache_path: where TensorRT-RTX keeps what it compiles at load; None: nowhere.
        progress: told about `upload`.

    Raises:
        NotFoundError: no cuda-python, no driver, or no such GPU.
        EngineMismatchError: the driver is too old.
    """

    def __init__(
        self,
        ordinal: int = 0,
        driver: Driver | None = None,
        *,
        cuda_graphs: bool = True,
        programmatic_launch: bool = True,
        cache_path: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.driver = driver or Driver()
        self.card = self.driver.card(ordinal)
        self.name = f"{self.card.name} (cuda:{ordinal})"
        self._context = self.driver.call("cuDevicePrimaryCtxRetain", self.card.handle)
        self._key = object()
        self._progress = progress
        self._programmatic_launch = programmatic_launch
        self._memories: list[DeviceMemory | HostStaging] = []
        self._kernels: list[CudaKernel] = []
        self._fetches: dict[int, _Fetch] = {}
        self._is_closed = False
        self._enter()
        streams = self.driver.api.CUstream_flags
        self.stream = self.driver.call("cuStreamCreate", streams.CU_STREAM_NON_BLOCKING)
        self._graphs = GraphCache(self.driver, self.stream, cuda_graphs)
        self._plans = PlanLoader(self.driver, self.stream, self.card, cache_path)
        self.providers = ("native", *self._plans.providers())

    def allocate(self, what: str, num_bytes: int) -> DeviceMemory:
        """As `Device`."""
        self._enter()
        memory = DeviceMemory(self.driver, what, num_bytes)
        self._memories.append(memory)
        self.driver.call("cuMemsetD8Async", memory.address, 0, memory.num_bytes, self.stream)
        return memory

    def upload(self, what: str, data: NDArray[np.uint8]) -> DeviceMemory:
        """As `Device`; waits until the data is there."""
        self._enter()
        memory = DeviceMemory(self.driver, what, data.nbytes)
        self._memories.append(memory)
        upload(self.driver, self.stream, memory, data, self._progress)
        return memory

    def load_kernel(self, kernel: KernelImage) -> CudaKernel:
        """As `Device`."""
        self._enter()
        if kernel.shared_bytes > self.card.shared_bytes:
            raise EngineMismatchError(
                f"kernel {kernel.name!r} needs {kernel.shared_bytes} bytes of shared memory, "
                f"{self.name} has {self.card.shared_bytes}; build the engine for this GPU's SKU"
            )
        loaded = CudaKernel(
            self.driver, kernel, self.stream, programmatic_launch=self._programmatic_launch
        )
        self._kernels.append(loaded)
        return loaded

    def load_segment(
        self, segment: SegmentImage, plan: PlanImage | None, provider: str
    ) -> SegmentRunner:
        """As `Device`."""
        self._enter()
        if provider not in PLAN_PACKAGES or plan is None:
            raise EngineMismatchError(
                f"segment {segment.name!r}: {self.name} runs it as native launches or as a plan of "
                f"{', '.join(PLAN_PACKAGES)}; {provider!r} was asked for"
                + ("" if plan is not None else ", and the engine holds no plan of it")
            )
        return self._plans.load(segment, plan, provider)

    def launch(self, handle: CudaKernel, grid: int, arguments: Mapping[str, Argument]) -> None:
        """As `Device`."""
        self._enter()
        handle.launch(grid, arguments)

    def copy_rows(
        self, view: View, pairs: NDArray[np.int32], row_bytes: int, pitch: int, count: int
    ) -> None:
        """As `Device`."""
        self._enter()
        base = view.buffer.address + view.offset
        for source, target in pairs.tolist():
            self._copy_planes(
                base + source * row_bytes, base + target * row_bytes, row_bytes, pitch, count
            )

    def _copy_planes(
        self, source: int, target: int, row_bytes: int, pitch: int, count: int
    ) -> None:
        """Copies one row of every plane: one 2-D copy where the planes are close enough."""
        api, call = self.driver.api, self.driver.call
        if count > 1 and pitch > self.card.max_pitch:
            for at in range(0, count * pitch, pitch):
                call("cuMemcpyDtoDAsync", target + at, source + at, row_bytes, self.stream)
            return
        copy = api.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = api.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.dstDevice = api.CUdeviceptr(source), api.CUdeviceptr(target)
        copy.srcPitch = copy.dstPitch = pitch if count > 1 else row_bytes
        copy.WidthInBytes, copy.Height = row_bytes, count
        call("cuMemcpy2DAsync", copy, self.stream)

    def staging(self, num_bytes: int) -> HostStaging:
        """As `Device`."""
        self._enter()
        staging = HostStaging(self.driver, num_bytes, self.stream)
        self._memories.append(staging)
        return staging

    def fetch(self, view: View) -> Callable[[], NDArray[Any]]:
        """As `Device`."""
        self._enter()
        address = view.buffer.address + view.offset
        dtype = _FETCHED[view.dtype]
        num_bytes = dtype.itemsize * prod(view.shape)
        fetch = self._fetches.get(address)
        if fetch is None or fetch.pinned.array.nbytes < num_bytes:
            if fetch is not None:
                del self._fetches[address]
                fetch.free()
            # The next size up, since the number of rows that are fetched varies by step.
            size = 1 << max(num_bytes - 1, 4095).bit_length()
            fetch = self._fetches[address] = _Fetch(self.driver, size)
        fetch.start(address, num_bytes, self.stream)

        def wait() -> NDArray[Any]:
            self._enter()
            self.driver.call("cuEventSynchronize", fetch.event)
            return fetch.pinned.array[:num_bytes].view(dtype).reshape(view.shape)

        return wait

    def run(self, key: Hashable | None, work: Callable[[], None]) -> None:
        """As `Device`: work with a key is recorded in a CUDA graph."""
        self._enter()
        self._graphs.run(key, work)

    def all_reduce(self, views: Sequence[View]) -> None:
        """As `Device`, for one rank."""
        _refuse_ranks(len(views))

    def all_gather(self, sources: Sequence[View], destinations: Sequence[View]) -> None:
        """As `Device`, for one rank."""
        _refuse_ranks(len(sources))
        self._enter()
        for source, target in zip(sources, destinations, strict=True):
            self.driver.call(
                "cuMemcpyDtoDAsync",
                target.buffer.address + target.offset,
                source.buffer.address + source.offset,
                source.num_bytes,
                self.stream,
            )

    def synchronize(self) -> None:
        """As `Device`; errors of kernels come out here at the latest."""
        self._enter()
        self.driver.call("cuStreamSynchronize", self.stream)

    def free_bytes(self) -> tuple[int, int]:
        """As `Device`."""
        self._enter()
        free, total = self.driver.call("cuMemGetInfo")
        return int(free), int(total)

    def close(self) -> None:
        """As `Device`."""
        if self._is_closed:
            return
        self._is_closed = True
        self._enter()
        try:
            self.driver.call("cuStreamSynchronize", self.stream)
            self._graphs.close()
            self._plans.close()
            for kernel in self._kernels:
                kernel.unload()
            for fetch in self._fetches.values():
                fetch.free()
            for memory in reversed(self._memories):
                memory.free()
            self.driver.call("cuStreamDestroy", self.stream)
        finally:
            # A crashed kernel fails every call above; the context must still be let go.
            self.driver.call("cuDevicePrimaryCtxRelease", self.card.handle)

    def _enter(self) -> None:
        """Makes the context current on the calling thread, unless the last call did."""
        if getattr(_CURRENT, "key", None) is not self._key:
            self.driver.call("cuCtxSetCurrent", self._context)
            _CURRENT.key = self._key


class _Fetch:
    """Page-locked memory that one address is copied to, and the event after the copy."""

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self._driver = driver
        self.pinned = PinnedMemory(driver, num_bytes)
        flags = driver.api.CUevent_flags
        self.event = driver.call("cuEventCreate", flags.CU_EVENT_DISABLE_TIMING)

    def start(self, address: int, num_bytes: int, stream: Any) -> None:
        if num_bytes:
            self._driver.call("cuMemcpyDtoHAsync", self.pinned.address, address, num_bytes, stream)
        self._driver.call("cuEventRecord", self.event, stream)

    def free(self) -> None:
        self._driver.call("cuEventSynchronize", self.event)
        self._driver.call("cuEventDestroy", self.event)
        self.pinned.free()


def _refuse_ranks(num_ranks: int) -> None:
    if num_ranks != 1:
        raise EngineMismatchError(
            f"the engine has tp_size {num_ranks}: several GPUs are not supported yet; build it "
            "with tp_size 1"
        )
