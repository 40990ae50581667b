# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from enginery.runtime.errors import EngineMismatchError
from enginery.runtime.executors.cuda import plan_runner
from enginery.runtime.executors.cuda.driver import Driver
from enginery.runtime.executors.cuda.memory import DeviceMemory
from enginery.runtime.executors.cuda.plan_runner import PlanLoader, rtx_runs_on
from enginery.runtime.executors.device import View
from enginery.runtime.executors.image import OperandImage, PlanImage, ProfileImage, SegmentImage
from tests.runtime.executors.cuda.fake_driver import FakeDriver

SEGMENT = SegmentImage(
    name="middle",
    onnx=b"",
    onnx_sha256="",
    inputs=(
        OperandImage("x", True, "f32", (64,), "tokens"),
        OperandImage("down_proj.weight", False, "bf16", (64, 32), None),
    ),
    outputs=(OperandImage("x_out", True, "f32", (64,), "tokens"),),
)


def plan_of(data: bytes, *ranges: tuple[int, int]) -> PlanImage:
    profiles = tuple(ProfileImage(low, low, high) for low, high in ranges)
    return PlanImage("plans/middle.plan", data, profiles, ())


class FakeContext:
    def __init__(self, engine: FakeEngine, config: Any) -> None:
        self.engine, self.config = engine, config
        self.profile, self.scratch = 0, (0, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.runs: list[int] = []

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.engine.takes(shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.runs.append(stream)
        return True


class FakeEngine:
    """A plan whose text is "<scratch bytes of each profile>,..."."""

    takes: Callable[[tuple[int, ...]], bool] = staticmethod(lambda shape: True)

    def __init__(self, plan: bytes, cache: FakeCache) -> None:
        self.scratch = [int(text) for text in plan.split(b",")]
        self.num_optimization_profiles = len(self.scratch)
        self.contexts: list[FakeContext] = []
        self.cache = cache

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return self.scratch[index]

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(strategy=None, cache=None)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            config, "strategy", strategy
        )
        config.create_runtime_cache = lambda: self.cache
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def create_execution_context(self, config: Any) -> FakeContext:
        self.contexts.append(FakeContext(self, config))
        return self.contexts[-1]


class FakeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, blob: bytes) -> bool:
        self.content = blob
        return True

    def serialize(self) -> bytes:
        return self.content


class FakeTensorRT(ModuleType):
    """What `plan_runner` uses of the bindings."""

    __version__ = "1.7.1"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.engines: list[FakeEngine] = []
        self.cache = FakeCache()
        outer = self

        class ILogger:
            WARNING = 2

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self.logger = logger

            def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
                if plan == b"refused":
                    self.logger.log(1, "The engine cannot run on this GPU")
                    self.logger.log(4, "chatter")
                    return None
                outer.engines.append(FakeEngine(plan, outer.cache))
                return outer.engines[-1]

            def get_engine_validity(self, plan: bytes) -> tuple[str, int]:
                return ("INVALID", 2)

        self.ILogger, self.Runtime = ILogger, Runtime
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        self.CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    module = FakeTensorRT("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    monkeypatch.setattr(plan_runner, "_LOGGERS", {})
    return module


@pytest.fixture
def driver() -> Driver:
    return Driver(FakeDriver(capability=(8, 9)))


@pytest.fixture
def loader(trt: FakeTensorRT, driver: Driver, tmp_path: Path) -> Iterator[PlanLoader]:
    made = PlanLoader(driver, 77, driver.card(0), str(tmp_path / "cache"))
    yield made
    made.close()
    assert driver.api.live == {}


def operands(driver: Driver) -> dict[str, View]:
    memory = DeviceMemory(driver, "test", 1 << 16)
    return {
        "x": View(memory, 0, "f32", (16, 64)),
        "down_proj.weight": View(memory, 8192, "bf16", (64, 32)),
        "x_out": View(memory, 16384, "f32", (16, 64)),
    }


def test_each_number_of_rows_runs_in_its_profile(
    trt: FakeTensorRT, loader: PlanLoader, driver: Driver
) -> None:
    runner = loader.load(SEGMENT, plan_of(b"10,20", (1, 8), (9, 16)), "tensorrt_rtx")
    given = operands(driver)
    for rows in (8, 9):
        runner.run(rows, given)
    small, large = trt.engines[0].contexts
    assert (small.profile, large.profile) == (0, 1)
    assert (small.runs, large.runs) == ([77], [77])
    assert small.shapes == {"x": (8, 64), "down_proj.weight": (64, 32)}
    assert large.shapes["x"] == (9, 64)
    base = given["x"].buffer.address
    assert large.addresses == {"x": base, "down_proj.weight": base + 8192, "x_out": base + 16384}
    given["x"].buffer.free()


def test_rows_outside_of_every_profile(loader: PlanLoader) -> None:
    runner = loader.load(SEGMENT, plan_of(b"10,20", (1, 8), (9, 16)), "tensorrt_rtx")
    with pytest.raises(EngineMismatchError, match=r"'middle': 17 rows .*\[1, 8\], \[9, 16\]"):
        runner.run(17, {})


def test_contexts_are_ready_for_recording(trt: FakeTensorRT, loader: PlanLoader) -> None:
    loader.load(SEGMENT, plan_of(b"10", (1, 8)), "tensorrt_rtx")
    config = trt.engines[0].contexts[0].config
    assert config.strategy == "user managed"
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert config.cuda_graph_strategy == "disabled"


def test_all_segments_share_the_largest_scratch(trt: FakeTensorRT, loader: PlanLoader) -> None:
    for plan in (b"100,5000", b"300,200", b"9000,1", b"4,0"):
        loader.load(SEGMENT, plan_of(plan, (1, 8), (9, 16)), "tensorrt_rtx")
    scratch = {context.scratch for engine in trt.engines for context in engine.contexts}
    assert len(scratch) == 1
    address, size = scratch.pop()
    assert address % 256 == 0
    assert size == 9000


def test_a_refused_plan_quotes_the_package(loader: PlanLoader) -> None:
    with pytest.raises(EngineMismatchError) as caught:
        loader.load(SEGMENT, plan_of(b"refused", (1, 8)), "tensorrt_rtx")
    message = str(caught.value)
    assert "'middle'" in message
    assert "tensorrt_rtx 1.7.1" in message
    assert "INVALID" in message
    assert "The engine cannot run on this GPU" in message
    assert "chatter" not in message


def test_another_number_of_profiles(loader: PlanLoader) -> None:
    with pytest.raises(EngineMismatchError, match=r"2 optimisation profiles.*says 1"):
        loader.load(SEGMENT, plan_of(b"1,2", (1, 8)), "tensorrt_rtx")


def test_a_refused_shape(
    loader: PlanLoader, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = loader.load(SEGMENT, plan_of(b"10", (1, 8)), "tensorrt_rtx")
    monkeypatch.setattr(FakeEngine, "takes", staticmethod(lambda shape: shape != (3, 64)))
    given = operands(driver)
    with pytest.raises(EngineMismatchError, match=r"refused shape \(3, 64\) of 'x'"):
        runner.run(3, given)
    given["x"].buffer.free()


def test_a_missing_package_names_the_extra(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    loader = PlanLoader(driver, 77, driver.card(0), None)
    with pytest.raises(EngineMismatchError, match=r"enginery\[tensorrt\]"):
        loader.load(SEGMENT, plan_of(b"10", (1, 8)), "tensorrt")


def load_and_close(driver: Driver, path: Path) -> None:
    loader = PlanLoader(driver, 77, driver.card(0), str(path))
    loader.load(SEGMENT, plan_of(b"10", (1, 8)), "tensorrt_rtx")
    loader.close()


def test_what_was_compiled_is_kept(trt: FakeTensorRT, driver: Driver, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    trt.cache.content = b"compiled"
    load_and_close(driver, path)
    assert path.read_bytes() == b"compiled"
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]
    trt.cache.content = b""
    load_and_close(driver, path)
    assert trt.cache.content == b"compiled", "it was read"


def test_an_unchanged_cache_is_not_written(
    trt: FakeTensorRT, driver: Driver, tmp_path: Path
) -> None:
    path = tmp_path / "cache"
    path.write_bytes(b"compiled")
    before = path.stat().st_ino
    load_and_close(driver, path)
    assert path.stat().st_ino == before


def test_a_folder_that_cannot_be_written_is_no_error(
    trt: FakeTensorRT, driver: Driver, tmp_path: Path
) -> None:
    trt.cache.content = b"compiled"
    load_and_close(driver, tmp_path / "missing" / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), True), ((8, 0), True), ((8, 9), True), ((9, 0), False), ((10, 0), False),
     ((12, 0), True), ((12, 1), True)],
)  # fmt: skip
def test_where_tensorrt_rtx_runs(capability: tuple[int, int], runs: bool) -> None:
    assert rtx_runs_on(capability) is runs


def test_it_is_no_provider_where_it_does_not_run(trt: FakeTensorRT) -> None:
    trt.__spec__ = importlib.util.spec_from_loader("tensorrt_rtx", loader=None)
    for capability, expected in (((8, 9), True), ((9, 0), False)):
        driver = Driver(FakeDriver(capability=capability))
        providers = PlanLoader(driver, 77, driver.card(0), None).providers()
        assert ("tensorrt_rtx" in providers) is expected


def test_the_real_bindings_have_what_is_used() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    used = {
        "Runtime": ("deserialize_cuda_engine", "get_engine_validity"),
        "ICudaEngine": (
            "create_execution_context",
            "create_runtime_config",
            "get_device_memory_size_for_profile_v2",
            "num_optimization_profiles",
        ),
        "IExecutionContext": (
            "execute_async_v3",
            "set_device_memory",
            "set_input_shape",
            "set_optimization_profile_async",
            "set_tensor_address",
        ),
        "IRuntimeConfig": (
            "create_runtime_cache",
            "cuda_graph_strategy",
            "dynamic_shapes_kernel_specialization_strategy",
            "set_execution_context_allocation_strategy",
            "set_runtime_cache",
        ),
        "IRuntimeCache": ("deserialize", "serialize"),
        "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
        "DynamicShapesKernelSpecializationStrategy": ("EAGER",),
        "CudaGraphStrategy": ("DISABLED",),
        "ILogger": ("WARNING", "log"),
    }
    lacking = [
        f"{owner}.{name}"
        for owner, names in used.items()
        for name in names
        if not hasattr(getattr(trt, owner), name)
    ]
    assert lacking == []
