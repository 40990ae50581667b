# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the module `cuda.bindings.driver`, over host memory.

Addresses are real, so that what is copied and passed can be looked at. Work is done when it is
enqueued, or noted while a stream records.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

ALIGNMENT = 256


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_IMAGE = 200
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209
    CUDA_ERROR_NOT_FOUND = 500
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900


@dataclass
class Launch:
    """A launch as the driver got it: every parameter as the 8 bytes that its pointer leads to."""

    function: Any
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    cells: list[int]


@dataclass
class Module:
    image: bytes
    is_loaded: bool = True


@dataclass
class Function:
    module: Module
    name: str
    shared_bytes: int = 0


@dataclass
class FakeDriver:
    """Functions of the driver; every call is counted in `calls`."""

    version: int = 13000
    num_devices: int = 1
    capability: tuple[int, int] = (9, 0)
    device_name: str = "NVIDIA H200"
    free: int = 1 << 30
    max_pitch: int = (1 << 31) - 1
    num_params: int = 0
    fail: dict[str, CUresult] = field(default_factory=dict)
    """Function to what it answers instead of doing its work."""
    on_launch: Callable[[Launch], None] | None = None

    def __post_init__(self) -> None:
        self.calls: list[str] = []
        self.launches: list[Launch] = []
        self.live: dict[int, Any] = {}
        self.contexts: list[Any] = []
        self.recording: list[Callable[[], None]] | None = None
        self.graphs: int = 0
        self.CUresult = CUresult
        self.early_launches: int = 0
        self.CUlaunchAttribute = self.CUlaunchAttributeValue = SimpleNamespace
        self.CUlaunchConfig = SimpleNamespace
        self.CUlaunchAttributeID = SimpleNamespace(
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION=6
        )
        self.CUdeviceptr = int
        self.CUmemorytype = SimpleNamespace(CU_MEMORYTYPE_DEVICE=2)
        self.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
        self.CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
        self.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)
        self.CUfunction_attribute = SimpleNamespace(
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8
        )
        names = (
            "COMPUTE_CAPABILITY_MAJOR",
            "COMPUTE_CAPABILITY_MINOR",
            "MULTIPROCESSOR_COUNT",
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
            "MAX_PITCH",
        )
        prefix = "CU_DEVICE_ATTRIBUTE_"
        self.CUdevice_attribute = SimpleNamespace(**{prefix + name: name for name in names})

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return value

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name in self.fail:
                return (self.fail[name], None)
            result = value(*arguments)
            if result is None:
                return (CUresult.CUDA_SUCCESS,)
            if isinstance(result, tuple):
                return (CUresult.CUDA_SUCCESS, *result)
            return (CUresult.CUDA_SUCCESS, result)

        return call

    class CUDA_MEMCPY2D:
        srcMemoryType = dstMemoryType = srcDevice = dstDevice = 0
        srcPitch = dstPitch = WidthInBytes = Height = 0

    def _work(self, action: Callable[[], None]) -> None:
        if self.recording is None:
            action()
        else:
            self.recording.append(action)

    # Devices and contexts
    def cuInit(self, flags: int) -> None:
        return None

    def cuDriverGetVersion(self) -> int:
        return self.version

    def cuDeviceGetCount(self) -> int:
        return self.num_devices

    def cuDeviceGet(self, ordinal: int) -> str:
        return f"device {ordinal}"

    def cuDeviceGetName(self, length: int, device: Any) -> bytes:
        return self.device_name.encode().ljust(length, b"\0")

    def cuDeviceGetAttribute(self, name: str, device: Any) -> int:
        return {
            "COMPUTE_CAPABILITY_MAJOR": self.capability[0],
            "COMPUTE_CAPABILITY_MINOR": self.capability[1],
            "MULTIPROCESSOR_COUNT": 132,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 227 << 10,
            "MAX_PITCH": self.max_pitch,
        }[name]

    def cuDevicePrimaryCtxRetain(self, device: Any) -> str:
        self.live["context"] = device  # type: ignore[index]
        return "context"

    def cuDevicePrimaryCtxRelease(self, device: Any) -> None:
        del self.live["context"]  # type: ignore[arg-type]

    def cuCtxSetCurrent(self, context: Any) -> None:
        self.contexts.append(context)

    # Memory
    def cuMemGetInfo(self) -> tuple[int, int]:
        return self.free, 1 << 30

    def _allocate(self, num_bytes: int) -> int:
        raw = ctypes.create_string_buffer(num_bytes + ALIGNMENT)
        address = -(-ctypes.addressof(raw) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, 0xA5, num_bytes)
        self.live[address] = raw
        return address

    def cuMemAlloc(self, num_bytes: int) -> int:
        return self._allocate(num_bytes)

    def cuMemFree(self, address: int) -> None:
        del self.live[address]

    def cuMemAllocHost(self, num_bytes: int) -> int:
        return self._allocate(num_bytes)

    def cuMemFreeHost(self, address: int) -> None:
        del self.live[address]

    def cuMemsetD8Async(self, address: int, value: int, count: int, stream: Any) -> None:
        self._work(lambda: _ignore(ctypes.memset(address, value, count)))

    def _copy(self, target: int, source: int, count: int, stream: Any) -> None:
        self._work(lambda: _ignore(ctypes.memmove(target, source, count)))

    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = _copy

    def cuMemcpy2DAsync(self, copy: Any, stream: Any) -> None:
        assert copy.WidthInBytes <= copy.srcPitch <= self.max_pitch
        for row in range(copy.Height):
            self._copy(
                copy.dstDevice + row * copy.dstPitch,
                copy.srcDevice + row * copy.srcPitch,
                copy.WidthInBytes,
                stream,
            )

    # Streams and events
    def cuStreamCreate(self, flags: int) -> int:
        self.live[-1] = "stream"
        return 77

    def cuStreamDestroy(self, stream: Any) -> None:
        del self.live[-1]

    def cuStreamSynchronize(self, stream: Any) -> None:
        assert self.recording is None, "a recording stream cannot be waited for"

    def cuEventCreate(self, flags: int) -> int:
        event = -1000 - len(self.calls)
        self.live[event] = "event"
        return event

    def cuEventDestroy(self, event: int) -> None:
        del self.live[event]

    def cuEventRecord(self, event: int, stream: Any) -> None:
        return None

    def cuEventSynchronize(self, event: int) -> None:
        assert event in self.live

    # Modules and launches
    def cuModuleLoadData(self, image: bytes) -> Module:
        return Module(image)

    def cuModuleUnload(self, module: Module) -> None:
        assert module.is_loaded
        module.is_loaded = False

    def cuModuleGetFunction(self, module: Module, name: bytes) -> Function:
        return Function(module, name.decode())

    def cuFuncSetAttribute(self, function: Function, attribute: int, value: int) -> None:
        function.shared_bytes = value

    def cuLaunchKernel(self, function: Any, *arguments: Any) -> None:
        x, y, z, threads, _, _, shared_bytes, _stream, parameters, extra = arguments
        assert extra == 0 and isinstance(parameters, int)
        pointers = (ctypes.c_void_p * self.num_params).from_address(parameters)
        cells = [ctypes.c_uint64.from_address(pointer).value for pointer in pointers if pointer]
        launch = Launch(function, (x, y, z), threads, shared_bytes, cells)

        def run() -> None:
            self.launches.append(launch)
            if self.on_launch is not None:
                self.on_launch(launch)

        self._work(run)

    def cuLaunchKernelEx(self, config: Any, function: Any, parameters: int, extra: int) -> None:
        (attribute,) = config.attrs
        assert config.numAttrs == 1 and attribute.value.programmaticStreamSerializationAllowed == 1
        assert attribute.id == 6
        self.early_launches += 1
        self.cuLaunchKernel(
            function, config.gridDimX, config.gridDimY, config.gridDimZ, config.blockDimX,
            config.blockDimY, config.blockDimZ, config.sharedMemBytes, config.hStream,
            parameters, extra,
        )  # fmt: skip

    # Graphs
    def cuStreamBeginCapture(self, stream: Any, mode: int) -> None:
        assert self.recording is None
        self.recording = []

    def cuStreamEndCapture(self, stream: Any) -> int:
        assert self.recording is not None
        actions, self.recording = self.recording, None
        self.graphs += 1
        handle = 10**6 + self.graphs
        self.live[handle] = actions
        return handle

    def cuGraphInstantiate(self, graph: int, flags: int) -> int:
        handle = 10**7 + graph
        self.live[handle] = self.live[graph]
        return handle

    def cuGraphDestroy(self, graph: int) -> None:
        del self.live[graph]

    def cuGraphExecDestroy(self, graph: int) -> None:
        del self.live[graph]

    def cuGraphLaunch(self, graph: int, stream: Any) -> None:
        for action in self.live[graph]:
            action()


def _ignore(result: Any) -> None:
    """Drops what a function returns."""
