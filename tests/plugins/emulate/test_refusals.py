# SPDX-License-Identifier: Apache-2.0
"""What cannot be emulated is refused by name, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.plugins.emulate import EmulatedExecutor, interpreter
from enginery.plugins.emulate.device import EmulatedDevice
from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineMismatchError, InvalidArgumentError, OutOfMemoryError
from enginery.runtime.executor import Limits
from enginery.runtime.executors.segmented import SegmentedExecutor
from tests.support.emulation import TOKENS_PER_BLOCK, build_emulated
from tests.support.schemes import build_engine

LIMITS = Limits(
    max_batch_size=2, max_num_tokens=8, max_logit_rows=8, max_seq_len=32,
    tokens_per_block=TOKENS_PER_BLOCK,
)  # fmt: skip


@pytest.fixture
def engine(llama_engine: Path) -> Iterator[Engine]:
    with Engine(llama_engine) as opened:
        yield opened


def test_kernels_of_another_source(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "source_sha256", lambda spec: "ab" * 32)
    executor = EmulatedExecutor(engine)
    with pytest.raises(EngineMismatchError, match=r"compiled from source .* here is abababab"):
        executor.init(LIMITS, 1 << 20)


def test_an_engine_of_another_target(llama: Path, tmp_path: Path) -> None:
    with Engine(build_engine(llama, tmp_path / "cpu", "bfloat16")) as cpu:
        with pytest.raises(EngineMismatchError, match=r"target 'cpu'.* runs 'tensorrt'") as caught:
            EmulatedExecutor(cpu)
        assert caught.value.status == "WRONG_TARGET"


@pytest.mark.parametrize("sku", [None, "rtx4090"])
def test_a_sku_that_must_be_named(sku: str | None, llama: Path, tmp_path: Path) -> None:
    path = build_emulated(llama, tmp_path / "engine", sku="h100,a100")
    with Engine(path) as opened:
        with pytest.raises(EngineMismatchError, match="is for a100, h100"):
            EmulatedExecutor(opened, sku)
        assert EmulatedExecutor(opened, "a100").images[0].sku.compute_capability == (8, 0)


def test_a_provider_that_is_not_there(engine: Engine) -> None:
    with pytest.raises(EngineMismatchError, match="'tensorrt_rtx': emulated device 0 runs native"):
        EmulatedExecutor(engine, provider="tensorrt_rtx")


def test_as_many_devices_as_ranks(engine: Engine) -> None:
    with pytest.raises(EngineMismatchError, match="tp_size 1; there are 2 devices"):
        SegmentedExecutor(engine, None, [EmulatedDevice(0), EmulatedDevice(1)])


def test_too_little_memory_is_said_before_it_is_asked_for(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmulatedDevice, "free_bytes", lambda self: (1 << 20, 2 << 20))
    monkeypatch.setattr(EmulatedDevice, "allocate", None)
    with pytest.raises(OutOfMemoryError, match=r"weights 0.\d.* KV cache 16.0\); 1.0 of 2.0 MiB"):
        EmulatedExecutor(engine).init(LIMITS, 16 << 20)


def test_a_budget_below_one_block(engine: Engine) -> None:
    with pytest.raises(InvalidArgumentError, match="one block of 16 tokens takes 8192 bytes"):
        EmulatedExecutor(engine).init(LIMITS, 8191)


def test_blocks_of_another_size(engine: Engine) -> None:
    limits = Limits(2, 8, 8, 32, tokens_per_block=32)
    with pytest.raises(InvalidArgumentError, match=r"tokens_per_block = 32: .* built with 16"):
        EmulatedExecutor(engine).init(limits, 1 << 20)
