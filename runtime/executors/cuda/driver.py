# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver through `cuda.bindings`: checked calls, and errors that say what to do."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import EngineMismatchError, EngineryError, NotFoundError, OutOfMemoryError

MIN_CUDA = (12, 0)
"""What a driver must support: graphs are instantiated as CUDA 12 does it."""

EXPLANATIONS = {
    "CUDA_ERROR_NO_DEVICE": "no NVIDIA GPU is visible; look at `nvidia-smi` and at the environment "
    "variable CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU for itself (compute mode)",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the kernel module and libcuda are of different driver "
    "versions; restart the machine after a driver update",
    "CUDA_ERROR_SYSTEM_NOT_READY": "the GPU's fabric manager is not running",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the kernel was compiled for another compute capability",
    "CUDA_ERROR_INVALID_IMAGE": "the kernel cannot be read: it was compiled for a newer driver, or "
    "the engine file is damaged (`enginery verify` tells)",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the kernel was compiled for a newer driver",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES": "the kernel asks for more registers or shared memory "
    "than this GPU has; build the engine for this GPU's SKU",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel reached outside its memory; this process cannot use "
    "the GPU any more",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "a kernel was given a misaligned address; this process cannot "
    "use the GPU any more",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel crashed; this process cannot use the GPU any more",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU's memory has a hardware error",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "something in this step cannot be recorded in a CUDA "
    "graph; run with cuda_graphs=False",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "something in this step cannot be recorded in a CUDA "
    "graph; run with cuda_graphs=False",
}


class DriverError(EngineryError):
    """A call of the CUDA driver failed.

    Attributes:
        name: the driver's name of the error, e.g. "CUDA_ERROR_ILLEGAL_ADDRESS".
    """

    status = "EXECUTOR_FAILED"

    def __init__(self, what: str, name: str) -> None:
        explanation = EXPLANATIONS.get(name)
        super().__init__(f"{what}: {name}" + (f": {explanation}" if explanation else ""))
        self.name = name


class DriverNotFoundError(NotFoundError):
    """No NVIDIA driver, or none that the bindings can load."""


def import_bindings() -> Any:
    """The module `cuda.bindings.driver`.

    Raises:
        NotFoundError: cuda-python is not installed.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise NotFoundError(
            f"cuda.bindings cannot be imported ({error}): engines of the target tensorrt need "
            "`pip install enginery[rtx]` (or [tensorrt])"
        ) from error


@dataclass(frozen=True)
class Card:
    """What a GPU says of itself.

    Attributes:
        ordinal: its number among the visible GPUs.
        handle: the driver's CUdevice.
        compute_capability: e.g. (9, 0).
        shared_bytes: shared memory that one block may ask for.
        max_pitch: bytes between two rows of a 2-D copy.
    """

    ordinal: int
    handle: Any
    name: str
    compute_capability: tuple[int, int]
    num_multiprocessors: int
    shared_bytes: int
    max_pitch: int


class Driver:
    """The driver's functions, with errors raised.

    Args:
        api: a module with the functions of `cuda.bindings.driver`; None: that module.

    Raises:
        NotFoundError: cuda-python is not installed.
        DriverNotFoundError: there is no libcuda, or it finds no GPU.
        EngineMismatchError: the driver is older than `MIN_CUDA`.
    """

    def __init__(self, api: Any = None) -> None:
        self.api = api or import_bindings()
        self._success = self.api.CUresult.CUDA_SUCCESS
        needed = ".".join(map(str, MIN_CUDA))
        try:
            answer = self.api.cuInit(0)
        except Exception as error:  # Bindings differ in what they raise when libcuda is missing.
            raise DriverNotFoundError(
                f"libcuda.so.1 cannot be loaded ({error}): install NVIDIA's driver, one for CUDA "
                f"{needed} or newer; in a container, start it with access to the GPUs"
            ) from error
        if answer[0] != self._success:
            raise DriverNotFoundError(str(DriverError("cuInit", self._name_of(answer[0]))))
        version = int(self.call("cuDriverGetVersion"))
        self.version = (version // 1000, version % 1000 // 10)
        """Newest CUDA that the driver supports, e.g. (13, 0)."""
        if self.version < MIN_CUDA:
            raise EngineMismatchError(
                f"the driver supports CUDA {self.version[0]}.{self.version[1]}; it must support "
                f"{needed} or newer: update NVIDIA's driver"
            )

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a driver function; returns its results (one as such, several as a tuple).

        Raises:
            DriverError: the driver refused; the message begins with the function's name.
        """
        return self.checked(getattr(self.api, function)(*arguments), function)

    def checked(self, answer: tuple[Any, ...], what: str) -> Any:
        """The results in a driver function's answer; raises as `call` does."""
        if answer[0] != self._success:
            raise DriverError(what, self._name_of(answer[0]))
        if len(answer) == 2:
            return answer[1]
        return answer[1:] or None

    def card(self, ordinal: int) -> Card:
        """The GPU of a number.

        Raises:
            NotFoundError: there are fewer GPUs.
        """
        count = int(self.call("cuDeviceGetCount"))
        if not 0 <= ordinal < count:
            raise NotFoundError(f"device = {ordinal}: there are {count} GPUs, numbered from 0")
        handle = self.call("cuDeviceGet", ordinal)
        names = self.api.CUdevice_attribute

        def attribute(name: str) -> int:
            key = getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}")
            return int(self.call("cuDeviceGetAttribute", key, handle))

        return Card(
            ordinal=ordinal,
            handle=handle,
            name=bytes(self.call("cuDeviceGetName", 128, handle)).split(b"\0")[0].decode(),
            compute_capability=(
                attribute("COMPUTE_CAPABILITY_MAJOR"),
                attribute("COMPUTE_CAPABILITY_MINOR"),
            ),
            num_multiprocessors=attribute("MULTIPROCESSOR_COUNT"),
            shared_bytes=attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
            max_pitch=attribute("MAX_PITCH"),
        )

    def launcher(
        self,
        function: Any,
        threads: int,
        shared_bytes: int,
        stream: Any,
        *,
        programmatic_launch: bool = False,
    ) -> Launcher:
        """A function (grid, address of the kernelParams array) that launches on a stream.

        Args:
            function: the driver's CUfunction.
            threads: per program.
            shared_bytes: dynamic shared memory per program.
            stream: of every launch.
            programmatic_launch: the kernel may come onto the GPU before the one ahead of it has
                ended, for whose results it waits by itself.
        """
        success = self._success
        if programmatic_launch:
            launch_ex = self.api.cuLaunchKernelEx
            config = self._early_config(threads, shared_bytes, stream)

            def run(grid: int, parameters: int) -> None:
                config.gridDimX = grid
                answer = launch_ex(config, function, parameters, 0)
                if answer[0] != success:
                    raise DriverError("cuLaunchKernelEx", self._name_of(answer[0]))

            return run
        launch = self.api.cuLaunchKernel

        def run_after(grid: int, parameters: int) -> None:
            answer = launch(
                function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, parameters, 0
            )
            if answer[0] != success:
                raise DriverError("cuLaunchKernel", self._name_of(answer[0]))

        return run_after

    def _early_config(self, threads: int, shared_bytes: int, stream: Any) -> Any:
        """A CUlaunchConfig that permits programmatic dependent launch; its grid is to be set."""
        attribute = self.api.CUlaunchAttribute()
        ids = self.api.CUlaunchAttributeID
        attribute.id = ids.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        value = self.api.CUlaunchAttributeValue()
        value.programmaticStreamSerializationAllowed = 1
        attribute.value = value
        config = self.api.CUlaunchConfig()
        config.gridDimX = config.gridDimY = config.gridDimZ = 1
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes, config.hStream = shared_bytes, stream
        config.attrs, config.numAttrs = [attribute], 1
        return config

    def out_of_memory(self, what: str, num_bytes: int) -> OutOfMemoryError:
        """The error for memory that could not be had; reads how much is free."""
        free, total = (int(value) for value in self.call("cuMemGetInfo"))
        return OutOfMemoryError(
            f"{what}: {num_bytes} bytes of GPU memory were asked for; {free} of {total} are free"
        )

    def _name_of(self, status: Any) -> str:
        name = getattr(status, "name", None)
        return str(name) if name else f"CUDA error {int(status)}"


Launcher = Callable[[int, int], None]
