# SPDX-License-Identifier: Apache-2.0
"""Memory of the GPU, page-locked memory of the host, and copies between them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import OutOfMemoryError
from .driver import Driver, DriverError

ALIGNMENT = 256
UPLOAD_CHUNK_BYTES = 64 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class DeviceMemory:
    """An allocation on the GPU; its address is a multiple of `ALIGNMENT`.

    Args:
        what: names it in errors.
        num_bytes: 0 is taken as 1, so that every allocation has an address.

    Raises:
        OutOfMemoryError: names what, how much was asked for and how much is free.
    """

    def __init__(self, driver: Driver, what: str, num_bytes: int) -> None:
        self._driver, self.what, self.num_bytes = driver, what, max(num_bytes, 1)
        try:
            self._pointer: Any = driver.call("cuMemAlloc", self.num_bytes)
        except DriverError as error:
            if error.name == "CUDA_ERROR_OUT_OF_MEMORY":
                raise driver.out_of_memory(what, self.num_bytes) from None
            raise
        self.address = int(self._pointer)
        assert self.address % ALIGNMENT == 0, "cuMemAlloc aligns to 256 bytes"

    def free(self) -> None:
        """Gives the memory back; twice is harmless."""
        if self._pointer is not None:
            self._driver.call("cuMemFree", self._pointer)
            self._pointer = None


class PinnedMemory:
    """Page-locked host memory, which the GPU copies from and to by itself.

    Attributes:
        array: uint8 [num_bytes]; must not be used after `free`.
    """

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self._driver = driver
        try:
            self.address = int(driver.call("cuMemAllocHost", max(num_bytes, 1)))
        except DriverError as error:
            if error.name == "CUDA_ERROR_OUT_OF_MEMORY":
                raise OutOfMemoryError(
                    f"{num_bytes} bytes of page-locked host memory cannot be had"
                ) from None
            raise
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * num_bytes).from_address(self.address)
        )
        self._is_freed = False

    def free(self) -> None:
        """Gives the memory back; twice is harmless."""
        if not self._is_freed:
            self._is_freed = True
            self._driver.call("cuMemFreeHost", self.address)


class HostStaging:
    """A page-locked buffer and its copy on the GPU: what the host writes each step.

    `host` may be written when the step of the last `commit` is done.

    Attributes:
        host: uint8 [num_bytes], zeros at first.
        buffer: memory of the GPU, as long.
    """

    def __init__(self, driver: Driver, num_bytes: int, stream: Any) -> None:
        self._driver, self._stream = driver, stream
        self._pinned = PinnedMemory(driver, num_bytes)
        try:
            self.buffer = DeviceMemory(driver, "staging of batches", num_bytes)
        except BaseException:
            self._pinned.free()
            raise
        self.host = self._pinned.array
        self.host[:] = 0

    def commit(self, num_bytes: int) -> None:
        """Starts copying the first `num_bytes` to the GPU."""
        if not 0 <= num_bytes <= self.host.nbytes:
            raise ValueError(f"commit of {num_bytes} bytes: staging has {self.host.nbytes}")
        if num_bytes:
            self._driver.call(
                "cuMemcpyHtoDAsync",
                self.buffer.address,
                self._pinned.address,
                num_bytes,
                self._stream,
            )

    def free(self) -> None:
        """Gives both memories back."""
        self._pinned.free()
        self.buffer.free()


def upload(
    driver: Driver,
    stream: Any,
    target: DeviceMemory,
    data: NDArray[np.uint8],
    progress: Progress | None = None,
) -> None:
    """Copies host memory, such as a mapped file, to the GPU and waits until it is there.

    Through two page-locked chunks in turn: one is filled (read from disk) by several threads while
    the other travels. A copy straight from mapped memory would do both after another.
    """
    chunk = min(UPLOAD_CHUNK_BYTES, max(data.nbytes, 1))
    num_threads = min(4, os.cpu_count() or 1)
    halves = [PinnedMemory(driver, chunk) for _ in range(2)]
    events = [driver.call("cuEventCreate", 0) for _ in halves]
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            for index, begin in enumerate(range(0, data.nbytes, chunk)):
                half, event = halves[index % 2], events[index % 2]
                driver.call("cuEventSynchronize", event)
                part = data[begin : begin + chunk]
                _fill(pool, num_threads, half.array, part)
                driver.call(
                    "cuMemcpyHtoDAsync", target.address + begin, half.address, part.nbytes, stream
                )
                driver.call("cuEventRecord", event, stream)
                if progress is not None:
                    progress(begin + part.nbytes, data.nbytes)
        driver.call("cuStreamSynchronize", stream)
    finally:
        for event in events:
            driver.call("cuEventDestroy", event)
        for half in halves:
            half.free()


def _fill(
    pool: ThreadPoolExecutor, num_threads: int, target: NDArray[np.uint8], part: NDArray[np.uint8]
) -> None:
    """Copies `part` to the start of `target`, in as many pieces as there are threads."""
    piece = -(-part.nbytes // num_threads)
    spans = [slice(i, min(i + piece, part.nbytes)) for i in range(0, part.nbytes, max(piece, 1))]
    list(pool.map(lambda span: np.copyto(target[span], part[span]), spans))
