# SPDX-License-Identifier: Apache-2.0
"""Memory of the emulated device: numpy arrays, seen through views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.errors import OutOfMemoryError
from enginery.runtime.executors.device import ALIGNMENT, View

Bytes = npt.NDArray[np.uint8]


def zeros(what: str, num_bytes: int) -> Bytes:
    """uint8 [num_bytes] of zeros, aligned as a device's memory; costs nothing until touched.

    Raises:
        OutOfMemoryError: the address space is refused.
    """
    try:
        buffer = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    except MemoryError as error:
        free, _ = free_bytes()
        raise OutOfMemoryError(
            f"{what}: {num_bytes} bytes were refused; {free} bytes are free"
        ) from error
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + num_bytes]


def bytes_of(view: View) -> Bytes:
    """The memory of a view, uint8 [num_bytes], not copied."""
    buffer: Bytes = view.buffer
    memory = buffer[view.offset : view.offset + view.num_bytes]
    assert memory.size == view.num_bytes, f"{view.dtype} {view.shape} leaves its buffer"
    return memory


def array_of(view: View, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The memory of a view as an array of its shape."""
    return bytes_of(view).view(dtype).reshape(view.shape)


def free_bytes() -> tuple[int, int]:
    """(available, total) memory of this machine in bytes."""
    fields: dict[str, int] = {}
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        fields[name] = int(rest.split()[0]) * 1024
    return fields["MemAvailable"], fields["MemTotal"]
