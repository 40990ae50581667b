# SPDX-License-Identifier: Apache-2.0
"""The memory plan of a GPU against what the executor allocates, and its limits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.errors import LimitError
from enginery.builder.memory_plan import MemoryPlan, Workspace, describe_plan, plan_memory
from enginery.builder.options import BuildRequest
from enginery.builder.targets.tensorrt.workspace import EXTRA_LOGIT_ROWS
from enginery.runtime.engine import Engine
from enginery.runtime.executor import Limits
from enginery.runtime.executors.image_reader import read_image
from enginery.runtime.executors.memory import KV_CACHE
from enginery.runtime.executors.memory import MemoryPlan as ExecutorPlan
from enginery.runtime.executors.sizes import StepSizes
from enginery.runtime.executors.steps import attention_cuts
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.kernel_compiler import FakeCompiler

MIB = 1 << 20


def plan(model: Path, output: Path | None = None, **options: Any) -> PlannedBuild:
    return plan_build(BuildRequest(model, output, **({"sku": "h200"} | options)))


def replan(planned: PlannedBuild, memory_bytes: int, **changes: Any) -> MemoryPlan:
    """The plan on a GPU that has so much for an engine."""
    sku = dataclasses.replace(planned.sku, memory_bytes=memory_bytes + planned.sku.reserved_bytes)
    options = dataclasses.replace(planned.options, **changes)
    extra = planned.target.workspace(planned.payloads[0], options)
    programs = [payload.program for payload in planned.payloads]
    return plan_memory(planned.network, programs, options, sku, None, extra)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {}),
        ("llama", {"max_batch_size": 1, "max_num_tokens": 1}),
        ("llama", {"max_batch_size": 33, "max_num_tokens": 37, "kv_cache_bytes": 2 * MIB}),
        ("qwen2", {"tp_size": 2, "tokens_per_block": 16}),
        ("qwen3", {"qformat": "int8_wo", "dtype": "float16", "max_batch_size": 100}),
    ],
)
def test_the_executor_takes_no_more_than_was_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, options: dict[str, Any]
) -> None:
    FakeCompiler(monkeypatch)
    model = write_tiny_checkpoint(
        tmp_path / "model", family, num_heads=8, num_kv_heads=4, max_position_embeddings=4096
    )
    planned = plan(model, tmp_path / "engine", no_cache=True, **options)
    build(planned)
    given = planned.options
    limits = Limits(
        max_batch_size=given.max_batch_size,
        max_num_tokens=given.max_num_tokens,
        max_logit_rows=min(given.max_batch_size + EXTRA_LOGIT_ROWS, given.max_num_tokens),
        max_seq_len=given.max_seq_len,
        tokens_per_block=given.tokens_per_block,
    )
    with Engine.open(tmp_path / "engine") as engine:
        image = read_image(engine)[0]
    num_blocks = planned.plan.num_kv_blocks
    sizes = StepSizes.of(image, limits, attention_cuts(image), num_blocks)
    taken = ExecutorPlan(image, sizes, image.sku.native)
    assert taken.needed[KV_CACHE] == planned.plan.kv_cache_bytes
    assert taken.needed["weights"] == planned.plan.weight_bytes
    assert taken.workspace_bytes <= planned.plan.workspace_bytes
    # Nor is the promise idle: most of it is taken.
    assert taken.workspace_bytes > 0.6 * planned.plan.workspace_bytes - MIB


def test_a_gpu_plan_is_of_one_rank_and_leaves_the_reserve(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama")
    one, two = plan(model), plan(model, tp_size=2)
    assert one.sku.memory_bytes is not None
    assert one.plan.memory_bytes == one.sku.memory_bytes - one.sku.reserved_bytes
    assert two.plan.kv_bytes_per_token == one.plan.kv_bytes_per_token // 2
    assert two.plan.weight_bytes < one.plan.weight_bytes
    assert two.plan.weight_bytes == two.payloads[0].program.weight_bytes()
    text = describe_plan(two.plan, two.options, two.sku)
    assert "Memory plan (h200, each of 2 ranks; 2 GiB of the GPU are not counted)" in text


@pytest.mark.parametrize(("dtype", "item_bytes"), [("bfloat16", 2), ("int8", 1), ("fp8", 1)])
def test_the_kv_cache_dtype_decides_its_size(tmp_path: Path, dtype: str, item_bytes: int) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama")
    request = plan(model)
    options = dataclasses.replace(request.options, kv_cache_dtype=dtype)
    programs = [payload.program for payload in request.payloads]
    got = plan_memory(request.network, programs, options, request.sku, None)
    assert got.kv_bytes_per_token == 2 * 2 * 2 * 32 * item_bytes


def test_several_skus_have_a_plan_each(tmp_path: Path) -> None:
    planned = plan(write_tiny_checkpoint(tmp_path, "llama"), sku="h200,rtx4090,l40s")
    assert len(planned.plans) == 3
    assert planned.sku.name == "rtx4090" and planned.plan is planned.plans[1]


def test_partial_results_are_bounded_by_the_cache_and_by_the_sequences(tmp_path: Path) -> None:
    options = plan(write_tiny_checkpoint(tmp_path, "llama")).options
    options = dataclasses.replace(options, max_batch_size=10, max_seq_len=1000)
    extra = Workspace(partial_bytes=1, split_tokens=100)
    assert extra.num_partials(0, options) == 10
    assert extra.num_partials(5000, options) == 60
    assert extra.num_partials(10**9, options) == 100
    short = dataclasses.replace(options, max_seq_len=99)
    assert extra.num_partials(10**9, short) == 10


def test_whatever_the_memory_a_plan_fits_in_it(tmp_path: Path) -> None:
    planned = plan(
        write_tiny_checkpoint(tmp_path, "llama", max_position_embeddings=65536),
        max_batch_size=64, max_num_tokens=64,
    )  # fmt: skip
    plans, refused = 0, set()
    for memory in range(0, 60 * MIB, MIB // 3):
        try:
            got = replan(planned, memory, max_seq_len=4096)
        except LimitError as error:
            refused.add(error.problems[0].field)
            continue
        plans += 1
        assert got.weight_bytes + got.workspace_bytes + got.kv_cache_bytes <= memory
    assert plans > 20 and {"weights", "max_num_tokens", "max_seq_len"} & refused
