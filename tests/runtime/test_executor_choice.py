# SPDX-License-Identifier: Apache-2.0
"""Which executor an engine gets, and what it is told before it starts."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from enginery.runtime import executor_choice
from enginery.runtime.engine import Engine
from enginery.runtime.errors import (
    EngineMismatchError,
    EngineryError,
    InvalidArgumentError,
    NotFoundError,
    OutOfMemoryError,
)
from enginery.runtime.executor import ExecutorInfo, Limits
from enginery.runtime.executor_choice import make_executor
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.executors import FormulaExecutor, next_token

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_tensorrt.engine"
"""An engine for tensorrt, SKUs a100 and h200, 11 tokens, 4 tokens per block."""
VOCAB_SIZE = 11
FACTORY = f"{__name__}:make_formula"


class DeviceExecutor(FormulaExecutor):
    """Says how much memory the KV cache may take."""

    name = "formula"

    def __init__(self, **options: Any) -> None:
        super().__init__(VOCAB_SIZE)
        self.options = options
        self.asked: list[tuple[float, Limits]] = []
        self.kv_cache_bytes = 0

    def default_kv_cache_bytes(self, fraction: float, limits: Limits) -> int:
        self.asked.append((fraction, limits))
        return int(fraction * 1000)

    def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
        self.kv_cache_bytes = kv_cache_bytes
        return super().init(limits, kv_cache_bytes)


made: list[DeviceExecutor] = []


def make_formula(engine: Engine, **options: Any) -> DeviceExecutor:
    assert engine.info.vocab_size == VOCAB_SIZE
    made.append(DeviceExecutor(**options))
    return made[-1]


@pytest.fixture
def tensorrt() -> Any:
    with Engine(GOLDEN) as opened:
        yield opened


def test_an_import_string_names_a_factory(tensorrt: Engine) -> None:
    with Runtime(tensorrt, RuntimeOptions(executor=FACTORY, sku="h200")) as runtime:
        assert runtime.executor_name == "formula"
        assert made[-1].options == {"sku": "h200"}
    assert made[-1].is_closed
    with Runtime(tensorrt, executor=FACTORY, executor_options={"provider": "onnx"}):
        assert made[-1].options == {"provider": "onnx"}


def test_the_built_in_executor_is_no_python(engine: Engine) -> None:
    assert make_executor(engine) is None
    assert make_executor(engine, sku="cpu") is None


def test_skus_of_an_engine(tensorrt: Engine, engine: Engine) -> None:
    assert tensorrt.skus == ("a100", "h200")
    assert engine.skus == ("cpu",)
    with pytest.raises(EngineMismatchError, match=r"was built for a100, h200; .* --sku b200"):
        make_executor(tensorrt, FACTORY, sku="b200")
    with pytest.raises(EngineMismatchError, match="was built for cpu"):
        Runtime(engine, RuntimeOptions(sku="h200"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be an import string"),
        ("tests.runtime", "must be an import string"),
        ("a b:c", "must be an import string"),
        (f"{__name__}:nothing", "has no callable nothing"),
        (f"{__name__}:VOCAB_SIZE", "has no callable VOCAB_SIZE"),
        ("tests.runtime.no_such_module:make", "No module named"),
    ],
)
def test_refuses_what_names_no_factory(tensorrt: Engine, text: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make_executor(tensorrt, text)


def test_options_need_a_factory(tensorrt: Engine, engine: Engine) -> None:
    with pytest.raises(InvalidArgumentError, match=r"provider.*the built-in one"):
        make_executor(engine, options={"provider": "onnx"})
    with pytest.raises(InvalidArgumentError, match=r"provider.*an object already"):
        make_executor(tensorrt, DeviceExecutor(), options={"provider": "onnx"})


def test_a_package_that_is_missing_names_its_extra(
    tensorrt: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str) -> Any:
        def load(name: str) -> ModuleType:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)

        return load

    monkeypatch.setattr(importlib, "import_module", missing("cuda.bindings"))
    with pytest.raises(InvalidArgumentError, match=r"enginery\[rtx\] or enginery\[tensorrt\]; .*"
                       "--emulate"):  # fmt: skip
        Runtime(tensorrt)
    monkeypatch.setattr(importlib, "import_module", missing("onnxruntime"))
    with pytest.raises(InvalidArgumentError, match=r"install enginery\[emulate\]"):
        make_executor(tensorrt, "a.b:c")


@pytest.mark.parametrize(
    ("options", "asked", "budget"),
    [
        ({}, [0.9], 900),
        ({"free_gpu_memory_fraction": 0.25}, [0.25], 250),
        ({"kv_cache_bytes": 640}, [], 640),
    ],
)
def test_the_executor_sizes_the_kv_cache(
    tensorrt: Engine, options: dict[str, Any], asked: list[float], budget: int
) -> None:
    executor = DeviceExecutor()
    with Runtime(tensorrt, RuntimeOptions(**options), executor=executor):
        pass
    assert [fraction for fraction, _ in executor.asked] == asked
    assert executor.kv_cache_bytes == budget
    assert all(limits == executor.limits for _, limits in executor.asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"free_gpu_memory_fraction": 1.5}, r"must be in \(0, 1\)"),
        ({"free_gpu_memory_fraction": 0.5, "kv_cache_bytes": 1}, "give one of them"),
    ],
)
def test_refuses_bad_shares(tensorrt: Engine, options: dict[str, Any], message: str) -> None:
    executor = DeviceExecutor()
    with pytest.raises(InvalidArgumentError, match=message):
        Runtime(tensorrt, RuntimeOptions(**options), executor=executor)
    assert executor.is_closed


def test_a_share_needs_a_device(tensorrt: Engine) -> None:
    with pytest.raises(InvalidArgumentError, match="executors with a device"):
        Runtime(
            tensorrt,
            RuntimeOptions(free_gpu_memory_fraction=0.5),
            executor=FormulaExecutor(VOCAB_SIZE),
        )


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (EngineMismatchError("no kernels for it"), EngineMismatchError),
        (MemoryError("too much"), OutOfMemoryError),
        (KeyError("bug"), EngineryError),
    ],
)
def test_what_init_raises_keeps_its_kind(
    tensorrt: Engine, raised: Exception, expected: type[Exception]
) -> None:
    class Broken(DeviceExecutor):
        def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
            raise raised

    with pytest.raises(expected, match=str(raised.args[0])):
        Runtime(tensorrt, executor=Broken())


def test_llm_passes_the_choice_on() -> None:
    config = KvCacheConfig(free_gpu_memory_fraction=0.25)
    with LLM(GOLDEN, executor=FACTORY, sku="a100", kv_cache_config=config) as llm:
        assert llm.executor_name == "formula"
        assert made[-1].options == {"sku": "a100"}
        assert [fraction for fraction, _ in made[-1].asked] == [0.25]
        params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
        output = llm.generate([3, 4], params)
    first = next_token(np.array([3, 4]), VOCAB_SIZE)
    assert output.outputs[0].token_ids == [
        first,
        next_token(np.array([3, 4, first]), VOCAB_SIZE),
    ]


def test_where_there_is_no_device_emulation_is_offered(
    tensorrt: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(engine: Engine, **options: Any) -> Any:
        raise NotFoundError("no driver")

    monkeypatch.setattr(executor_choice, "import_factory", lambda text: refuse)
    with pytest.raises(NotFoundError, match="no driver; to try the engine without a GPU"):
        make_executor(tensorrt)
    with pytest.raises(NotFoundError, match=r"no driver$"):
        make_executor(tensorrt, FACTORY)
