# SPDX-License-Identifier: Apache-2.0
"""A compiled kernel: its module, and how its arguments are laid out for a launch."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import Any

from ...errors import EngineMismatchError
from ..device import Argument, View
from ..image import KernelImage
from .driver import Driver, DriverError

STATIC_SHARED_BYTES = 48 << 10
"""Shared memory that a kernel may use without asking for it."""

_POINTER, _INTEGER, _FLOAT = range(3)
_MASKS = {"i32": 0xFFFFFFFF, "i64": 0xFFFFFFFFFFFFFFFF}


class CudaKernel:
    """One kernel on the GPU; not for several threads at once.

    The kernel's parameters lie in one array of 8-byte cells, and `cuLaunchKernel` gets the address
    of an array of pointers to these cells that never changes: a launch writes the cells, and makes
    no objects. The driver copies the cells before the launch returns.

    Args:
        driver: in a current context.
        image: cubin and launch data; after the parameters of the signature, cubins of recent
            Triton-language versions take scratch pointers, which get null.
        stream: the stream of every launch.
        programmatic_launch: whether a kernel that can is launched before the one before it is over.

    Raises:
        EngineMismatchError: the driver refuses the module, or it needs more shared memory than the
            GPU has.
    """

    def __init__(
        self, driver: Driver, image: KernelImage, stream: Any, *, programmatic_launch: bool = True
    ) -> None:
        self.name = image.name
        self._driver = driver
        try:
            self.module = driver.call("cuModuleLoadData", bytes(image.cubin))
            function = driver.call("cuModuleGetFunction", self.module, image.entry.encode())
            if image.shared_bytes > STATIC_SHARED_BYTES:
                attributes = driver.api.CUfunction_attribute
                key = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.call("cuFuncSetAttribute", function, key, image.shared_bytes)
        except DriverError as error:
            version = ".".join(map(str, driver.version))
            raise EngineMismatchError(
                f"kernel {image.name!r} (entry {image.entry!r}, {image.shared_bytes} bytes of "
                f"shared memory) cannot be loaded: {error}; the driver supports CUDA {version}"
            ) from error
        self._parameters = [(name, *_kind(kind)) for name, kind in image.parameters]
        num_cells = max(image.num_params, len(self._parameters), 1)
        self._cells = (ctypes.c_uint64 * num_cells)()
        base = ctypes.addressof(self._cells)
        self._pointers = (ctypes.c_void_p * num_cells)(*(base + 8 * i for i in range(num_cells)))
        self._address = ctypes.addressof(self._pointers)
        self._launch = driver.launcher(
            function,
            32 * image.num_warps,
            image.shared_bytes,
            stream,
            programmatic_launch=programmatic_launch and image.programmatic_launch,
        )

    def launch(self, grid: int, arguments: Mapping[str, Argument]) -> None:
        """Launches `grid` programs; asynchronous.

        Raises:
            TypeError: an argument is missing, or is a view where a number is wanted.
            DriverError: the driver refused.
        """
        self._launch(grid, self.pack(arguments))

    def pack(self, arguments: Mapping[str, Argument]) -> int:
        """Writes the arguments; the address of the kernelParams array."""
        cells = self._cells
        try:
            for index, (name, kind, mask) in enumerate(self._parameters):
                value: Any = arguments[name]
                if kind == _POINTER:
                    cells[index] = value.buffer.address + value.offset
                elif kind == _INTEGER:
                    cells[index] = value & mask
                else:
                    cells[index] = struct.unpack("<I", struct.pack("<f", value))[0]
        except (AttributeError, KeyError, TypeError, struct.error) as error:
            raise TypeError(self._complaint(arguments)) from error
        return self._address

    def unload(self) -> None:
        """Unloads the module; twice is harmless."""
        if self.module is not None:
            self._driver.call("cuModuleUnload", self.module)
            self.module = None

    def _complaint(self, arguments: Mapping[str, Argument]) -> str:
        kinds = {_POINTER: "a view", _INTEGER: "an int", _FLOAT: "a number"}
        wanted = ", ".join(f"{name}: {kinds[kind]}" for name, kind, _ in self._parameters)
        given = ", ".join(
            f"{name}: {'a view' if isinstance(value, View) else repr(value)}"
            for name, value in arguments.items()
        )
        return f"kernel {self.name!r} takes ({wanted}); it was given ({given})"


def _kind(declared: str) -> tuple[int, int]:
    """How an argument of a declared type is written: kind, and the bits of an integer."""
    if declared.startswith("*"):
        return _POINTER, 0
    if declared in _MASKS:
        return _INTEGER, _MASKS[declared]
    if declared == "fp32":
        return _FLOAT, 0
    raise EngineMismatchError(f"kernel parameter of type {declared!r}: cannot be passed")
