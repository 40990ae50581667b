# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.build import PlannedBuild
from enginery.builder.errors import LimitError
from enginery.builder.memory_plan import MemoryPlan, describe_plan, format_bytes, plan_memory
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engines import build_tiny, plan_tiny
from tests.support.quantized_checkpoints import quantize_checkpoint


def replan(
    planned: PlannedBuild, memory_bytes: int, kv_cache_bytes: int | None = None
) -> MemoryPlan:
    """The plan for a machine with as much memory."""
    sku = dataclasses.replace(planned.sku, memory_bytes=memory_bytes)
    programs = [payload.program for payload in planned.payloads]
    extra = planned.target.workspace(planned.payloads[0], planned.options)
    return plan_memory(planned.network, programs, planned.options, sku, kv_cache_bytes, extra)


@pytest.fixture
def planned(tmp_path: Path) -> PlannedBuild:
    return plan_tiny(write_tiny_checkpoint(tmp_path, "llama"), max_num_tokens=100, max_batch_size=7)


def test_numbers_are_those_of_the_model(planned: PlannedBuild) -> None:
    plan = planned.plan
    # keys and values, 2 layers, 2 KV heads of 32, float32
    assert plan.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4
    assert plan.kv_block_bytes == 32 * plan.kv_bytes_per_token
    # Of layer 0 and the last one's keys and values: hidden, norm, attention, angles, and qkv, in
    # whose place activation and kv come, as the second norm in that of attention. Of the rest of
    # the last layer: the residual and two places beside it, the wider one of logits at last.
    per_token = 4 * (128 + 128 + 128 + 32 + 256)
    per_logit_row = 4 * (128 + 128 + 320)
    assert plan.workspace_bytes == 100 * per_token + 7 * per_logit_row
    assert plan.num_full_sequences == 7  # no more than max_batch_size is of use
    assert plan.kv_cache_bytes == plan.num_kv_blocks * plan.kv_block_bytes


@pytest.mark.parametrize("qformat", ["int8_dynamic", "w4a8_dynamic"])
def test_weights_are_what_the_file_holds(tmp_path: Path, qformat: str) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen3", num_heads=8, head_dim=32)
    for tp_size in (1, 2):
        planned = plan_tiny(model, tp_size=tp_size, qformat=qformat)
        engines = build_tiny(model, tmp_path / f"engine{tp_size}", tp_size=tp_size, qformat=qformat)
        sections = [section for engine in engines for section in engine.sections]
        written = sum(section.num_bytes for section in sections if section.name == "weights")
        assert planned.plan.weight_bytes == written


def test_int4_weights_take_half_a_byte(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama", tie=True)
    int8, int4 = (
        plan_tiny(model, qformat=qformat).plan.weight_bytes
        for qformat in ("int8_dynamic", "w4a8_dynamic")
    )
    # qkv, o, gate and up, down of two layers; a multiplier for every 128 of them.
    num_codes = 2 * 128 * (256 + 128 + 512 + 256)
    assert int8 - int4 == num_codes // 2 - num_codes // 128


def test_products_of_gate_and_up_are_stored_beside_zero_points(tmp_path: Path) -> None:
    """The zero terms come first, and what is added to them is no product alone."""
    workspaces = []
    for kind in ("awq_sym", "awq"):
        model = write_tiny_checkpoint(tmp_path / kind, "llama", num_layers=3)
        quantize_checkpoint(model, kind)
        planned = plan_tiny(model, dtype="bfloat16", qformat="int4_wo")
        workspaces.append(planned.plan.workspace_bytes / planned.options.max_num_tokens)
    assert workspaces[1] - workspaces[0] >= 2 * 256 * 4


def test_ranks_share_the_kv_cache_and_not_the_residual_stream(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama")
    one, two = plan_tiny(model).plan, plan_tiny(model, tp_size=2).plan
    assert one.kv_bytes_per_token == two.kv_bytes_per_token
    assert one.workspace_bytes < two.workspace_bytes < 2 * one.workspace_bytes


@pytest.mark.parametrize("kv_cache_bytes", [None, 1_000_000])
def test_what_does_not_fit_names_a_limit_that_does(
    planned: PlannedBuild, kv_cache_bytes: int | None
) -> None:
    """Whatever the memory: a plan, or a message whose number makes the plan."""
    plan = planned.plan
    needed = plan.weight_bytes + plan.workspace_bytes
    refused: set[str] = set()
    for memory in [1000, *range(plan.weight_bytes, needed + 1_500_000, 50_000), 10 * needed]:
        options, kv_bytes = planned.options, kv_cache_bytes
        for _ in range(4):
            try:
                got = replan(dataclasses.replace(planned, options=options), memory, kv_bytes)
            except LimitError as error:
                (problem,) = error.problems
                refused.add(problem.field)
                if problem.field == "weights":
                    break
                match = re.search(r"the largest (?:\w+ )?that fits is ([1-9]\d*)", problem.fix)
                assert match, problem
                if problem.field == "kv_cache_bytes":
                    kv_bytes = int(match[1])
                    continue
                changes: dict[str, Any] = {problem.field: int(match[1])}
                if problem.field == "max_batch_size":
                    changes["max_num_tokens"] = int(match[1])
                options = dataclasses.replace(options, **changes)
            else:
                assert got.weight_bytes + got.workspace_bytes + got.kv_cache_bytes <= memory
                break
        else:
            pytest.fail("following the messages does not lead to a plan")
    assert {"weights", "max_batch_size", "max_num_tokens", "max_seq_len"} <= refused


def test_a_kv_cache_beyond_the_memory(planned: PlannedBuild) -> None:
    plan = planned.plan
    memory = plan.weight_bytes + plan.workspace_bytes + 2_000_000
    assert replan(planned, memory, 2_000_000).kv_cache_bytes <= 2_000_000
    with pytest.raises(LimitError, match="the largest that fits is 2000000"):
        replan(planned, memory, 2_000_001)


def test_one_sequence_must_fit(planned: PlannedBuild) -> None:
    blocks = planned.options.max_seq_len // 32
    enough = blocks * planned.plan.kv_block_bytes
    assert replan(planned, 1 << 30, enough).num_full_sequences == 1
    with pytest.raises(
        LimitError, match=f"the largest max_seq_len that fits is {(blocks - 1) * 32};"
    ):
        replan(planned, 1 << 30, enough - 1)


def test_the_plan_is_told_in_words(planned: PlannedBuild) -> None:
    text = describe_plan(planned.plan, planned.options)
    for part in ("weights", "workspace", "KV cache", "1024 bytes per token", "7 sequences of"):
        assert part in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.977 KiB"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"),
     (25274793984, "23.5 GiB"), (5 << 40, "5120 GiB")],
)  # fmt: skip
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_limits_of_a_request_reach_the_plan(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path, "llama")
    options: dict[str, Any] = {"kv_cache_bytes": 3_000_000, "tokens_per_block": 64}
    plan = plan_tiny(model, **options).plan
    assert plan.num_kv_blocks == 3_000_000 // (64 * 1024)
