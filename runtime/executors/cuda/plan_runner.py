# SPDX-License-Identifier: Apache-2.0
"""Segments as plans of TensorRT-RTX or TensorRT, through their official Python bindings.

Not run on a GPU so far: TensorRT-RTX 1.7 runs on compute capability 7.5, 8.0, 8.6, 8.9 and from
12.0 on, and the GPUs at hand were of 9.0, which it refuses. Against a stand-in of the bindings, and
against their signatures, the logic below is tested.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import EngineMismatchError
from ..device import View
from ..image import PlanImage, SegmentImage
from .driver import Card, Driver
from .memory import DeviceMemory

PLAN_PACKAGES = ("tensorrt_rtx", "tensorrt")
"""Providers that run plans, by the name of the Python package."""


def rtx_runs_on(compute_capability: tuple[int, int]) -> bool:
    """Whether TensorRT-RTX 1.7 says that it runs on such GPUs."""
    known = {(7, 5), (8, 0), (8, 6), (8, 9)}
    return compute_capability in known or compute_capability >= (12, 0)


class PlanLoader:
    """What all plans of a device share: the bindings' runtime, scratch memory and the JIT cache.

    Segments run one after the other on one stream, so that one allocation, as large as the largest
    asks for, serves all contexts of all segments.

    Args:
        driver: in a current context.
        stream: the device's.
        card: the GPU.
        cache_path: file of the runtime (JIT) cache, read when it is there and written by `close`
            when something was compiled; None: no file.
    """

    def __init__(self, driver: Driver, stream: Any, card: Card, cache_path: str | None) -> None:
        self._driver, self._stream, self._card = driver, stream, card
        self._cache_file = None if cache_path is None else Path(cache_path)
        self._packages: dict[str, _Package] = {}
        self._scratch: DeviceMemory | None = None
        self._runners: list[PlanRunner] = []

    def providers(self) -> tuple[str, ...]:
        """The packages that are installed and run on this GPU."""
        found = []
        for name in PLAN_PACKAGES:
            if name == "tensorrt_rtx" and not rtx_runs_on(self._card.compute_capability):
                continue
            if importlib.util.find_spec(name) is not None:
                found.append(name)
        return tuple(found)

    def load(self, segment: SegmentImage, plan: PlanImage, provider: str) -> PlanRunner:
        """Deserialises a plan and makes its contexts, one per optimisation profile.

        Raises:
            EngineMismatchError: the package is missing or refuses the plan; with its own words.
        """
        if provider not in self._packages:
            self._packages[provider] = _Package(provider, self._cache_file)
        runner = PlanRunner(self._packages[provider], segment, plan, int(self._stream))
        self._runners.append(runner)
        self._share_scratch(runner)
        return runner

    def _share_scratch(self, runner: PlanRunner) -> None:
        have = 0 if self._scratch is None else self._scratch.num_bytes
        if runner.scratch_bytes <= have and self._scratch is not None:
            runner.set_scratch(self._scratch)
            return
        old, self._scratch = (
            self._scratch,
            DeviceMemory(self._driver, "scratch memory of plans", runner.scratch_bytes),
        )
        for each in self._runners:
            each.set_scratch(self._scratch)
        if old is not None:
            old.free()

    def close(self) -> None:
        """Keeps what was compiled, and frees everything."""
        for package in self._packages.values():
            package.save_cache()
        self._runners.clear()
        self._packages.clear()
        if self._scratch is not None:
            self._scratch.free()
            self._scratch = None


class PlanRunner:
    """One segment's plan, with one execution context per optimisation profile.

    A context is bound to its profile before the first step, since a change of profile cannot be
    recorded in a CUDA graph.
    """

    def __init__(
        self, package: _Package, segment: SegmentImage, plan: PlanImage, stream: int
    ) -> None:
        self._package, self._segment, self._stream = package, segment, stream
        self._engine = package.deserialize(segment.name, plan.data)
        # [low, high] rows of each profile, in order.
        self._ranges = [(profile.min, profile.max) for profile in plan.profiles]
        built = self._engine.num_optimization_profiles
        if built != len(self._ranges):
            raise EngineMismatchError(
                f"plan of segment {segment.name!r}: it has {built} optimisation profiles, the "
                f"engine file says {len(self._ranges)}"
            )
        self.scratch_bytes = max(
            self._engine.get_device_memory_size_for_profile_v2(index) for index in range(built)
        )
        self._contexts = [self._context(index) for index in range(built)]

    def run(self, rows: int, operands: Mapping[str, View]) -> None:
        """As `SegmentRunner`.

        Raises:
            EngineMismatchError: no profile holds so many rows, or TensorRT refuses.
        """
        context = self._contexts[self._profile_of(rows)]
        for value in self._segment.inputs:
            view = operands[value.name]
            shape = (rows, *value.shape) if value.is_value else value.shape
            if not context.set_input_shape(value.name, shape):
                raise self._refusal(f"shape {shape} of {value.name!r}")
            self._bind(context, value.name, view)
        for value in self._segment.outputs:
            self._bind(context, value.name, operands[value.name])
        if not context.execute_async_v3(self._stream):
            raise self._refusal(f"execute_async_v3 with {rows} rows")

    def set_scratch(self, memory: DeviceMemory) -> None:
        """Gives every context the shared scratch memory."""
        for context in self._contexts:
            context.set_device_memory(memory.address, memory.num_bytes)

    def _profile_of(self, rows: int) -> int:
        for index, (low, high) in enumerate(self._ranges):
            if low <= rows <= high:
                return index
        ranges = ", ".join(f"[{low}, {high}]" for low, high in self._ranges)
        raise EngineMismatchError(
            f"plan of segment {self._segment.name!r}: {rows} rows lie in none of its profiles "
            f"{ranges}"
        )

    def _bind(self, context: Any, name: str, view: View) -> None:
        if not context.set_tensor_address(name, view.buffer.address + view.offset):
            raise self._refusal(f"address of {name!r}")

    def _context(self, profile: int) -> Any:
        context = self._package.make_context(self._engine)
        if context is None:
            raise self._refusal("create_execution_context")
        if profile and not context.set_optimization_profile_async(profile, self._stream):
            raise self._refusal(f"optimisation profile {profile}")
        return context

    def _refusal(self, what: str) -> EngineMismatchError:
        return EngineMismatchError(
            f"plan of segment {self._segment.name!r}: {self._package.name} refused {what}: "
            f"{self._package.take_messages()}"
        )


class _Package:
    """One of the TensorRT packages: its runtime, logger and, for TensorRT-RTX, the JIT cache."""

    def __init__(self, name: str, cache_file: Path | None) -> None:
        self.name = name
        try:
            self._trt: Any = importlib.import_module(name)
        except ImportError as error:
            extra = "rtx" if name == "tensorrt_rtx" else "tensorrt"
            raise EngineMismatchError(
                f"the engine's plans need the package {name} ({error}): "
                f"`pip install enginery[{extra}]`"
            ) from error
        self._logger = _logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._config: Any = None
        self._cache: Any = None
        self._cache_file = cache_file
        self._cache_digest = b""

    def deserialize(self, segment: str, plan: bytes) -> Any:
        """The bindings' engine of a plan."""
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            validity = ""
            if hasattr(self._runtime, "get_engine_validity"):
                validity = f" (validity {self._runtime.get_engine_validity(plan)})"
            raise EngineMismatchError(
                f"plan of segment {segment!r}: {self.name} {self._trt.__version__} refused it"
                f"{validity}: {self.take_messages()}"
            )
        return engine

    def make_context(self, engine: Any) -> Any:
        """A context whose scratch memory is ours, or None when the package refuses."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.name != "tensorrt_rtx":
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        # Kernels for a new shape are compiled before its first run and never replaced afterwards:
        # a graph keeps the kernels that it was recorded with.
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED  # we record ourselves
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            self._load_cache()
        config.set_runtime_cache(self._cache)
        self._config = config
        return engine.create_execution_context(config)

    def take_messages(self) -> str:
        """What the package logged since the last call."""
        messages, self._logger.messages = self._logger.messages, []
        return "; ".join(dict.fromkeys(messages)) or "no reason given"

    def save_cache(self) -> None:
        """Writes the JIT cache beside the engine, if it changed and the folder may be written."""
        if self._cache is None or self._cache_file is None:
            return
        blob = bytes(self._cache.serialize())
        if hashlib.sha256(blob).digest() == self._cache_digest:
            return
        try:
            _write_atomically(self._cache_file, blob)
        except OSError:
            # An engine in a read-only folder is compiled for anew at each start.
            return

    def _load_cache(self) -> None:
        """Reads the JIT cache; one that the package does not take is left to be replaced."""
        try:
            blob = b"" if self._cache_file is None else self._cache_file.read_bytes()
        except OSError:
            return
        if blob and self._cache.deserialize(blob):
            self._cache_digest = hashlib.sha256(blob).digest()


_LOGGERS: dict[str, Any] = {}


def _logger(trt: ModuleType) -> Any:
    """The package's logger of this process; TensorRT takes one for all its objects."""
    if trt.__name__ not in _LOGGERS:

        class Recorder(trt.ILogger):  # type: ignore[misc, name-defined]
            """Keeps warnings and errors, to be quoted when something is refused."""

            def __init__(self) -> None:
                super().__init__()
                self.messages: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.WARNING:
                    self.messages.append(message)

        _LOGGERS[trt.__name__] = Recorder()
    return _LOGGERS[trt.__name__]


def _write_atomically(path: Path, blob: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(blob)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
