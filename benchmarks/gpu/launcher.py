# SPDX-License-Identifier: Apache-2.0
"""Loads a cubin or PTX through cuda-python's driver API and launches it; no compiler needed."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from cuda.bindings import driver


class DriverError(RuntimeError):
    """A driver call failed; the message is the driver's error name."""


def _checked(answer: tuple[Any, ...], what: str) -> Any:
    if int(answer[0]) != 0:
        raise DriverError(f"{what}: {answer[0]}")
    return answer[1] if len(answer) > 1 else None


class Kernel:
    """One kernel of a loaded module, in torch's context."""

    def __init__(self, image: bytes, launch: dict[str, Any]) -> None:
        """Loads `image` (cubin, or PTX text) and looks up `launch["entry"]`.

        Args:
            image: the module; PTX gets its terminating zero here.
            launch: entry, num_warps, shared_bytes, num_params, as kernels.json holds them.

        Raises:
            DriverError: the driver refused the image.
        """
        torch.zeros(1, device="cuda")  # makes the primary context current
        self.module = _checked(driver.cuModuleLoadData(image + b"\0"), "cuModuleLoadData")
        entry = launch["entry"].encode()
        self.function = _checked(driver.cuModuleGetFunction(self.module, entry), "get function")
        self.threads = launch["num_warps"] * 32
        self.shared_bytes = launch["shared_bytes"]
        self.num_params = launch["num_params"]
        if self.shared_bytes > 48 * 1024:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            answer = driver.cuFuncSetAttribute(self.function, attribute, self.shared_bytes)
            _checked(answer, "shared memory attribute")

    def launch(self, stream: Any, grid: int, *args: torch.Tensor | int) -> None:
        """Launches `grid` programs on a torch stream; ints are passed as int32.

        Cubins of recent Triton-language versions take scratch pointers after the declared
        arguments; a kernel that uses no scratch gets null there.
        """
        values: list[int] = []
        kinds: list[Any] = []
        for arg in args:
            is_tensor = isinstance(arg, torch.Tensor)
            values.append(arg.data_ptr() if isinstance(arg, torch.Tensor) else arg)
            kinds.append(ctypes.c_void_p if is_tensor else ctypes.c_int)
        scratch = self.num_params - len(args)
        values += [0] * scratch
        kinds += [ctypes.c_void_p] * scratch
        answer = driver.cuLaunchKernel(
            self.function, grid, 1, 1, self.threads, 1, 1, self.shared_bytes,
            stream.cuda_stream, (tuple(values), tuple(kinds)), 0,
        )  # fmt: skip
        _checked(answer, "cuLaunchKernel")
