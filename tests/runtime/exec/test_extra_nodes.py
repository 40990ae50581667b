# SPDX-License-Identifier: Apache-2.0
"""Scaled columns and sums of groups in whole engines, on every instruction set, against numpy."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.runtime.errors import EngineryError
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import Engine, read_engine
from tests.support.extra_nodes import add_factors, builds_with, with_factors, with_group_sums
from tests.support.reference import ReferenceSequence
from tests.support.schemes import build_engine
from tests.support.tolerances import relative_error

# The file is the same, so only sums in another order differ, and the operands that those push to
# the next bfloat16 (8 bits) or int8 step (1/127 of a row's largest).
FLOAT32, BFLOAT16, INT8 = 1e-5, 0.01, 0.05
# Nothing in attention is rounded to bfloat16 beside a cache of float32.
ENGINE: dict[str, Any] = {
    "kv_cache_dtype": "float32", "max_batch_size": 4, "max_num_tokens": 32, "tokens_per_block": 16,
}  # fmt: skip
TOKENS: list[int] = np.random.default_rng(3).integers(300, size=40).tolist()


def check(engine: Path, limit: float, num_ranks: int = 1) -> list[Engine]:
    """Holds every instruction set of this machine against the reference; returns the ranks."""
    ranks = [read_engine(engine / f"rank{rank}.engine") for rank in range(num_ranks)]
    expected = ReferenceSequence(*ranks).append(TOKENS)
    params = SamplingParams(max_tokens=1, return_context_logits=True)
    for isa in ("portable", "avx2", "avx512", "amx"):
        try:
            with LLM(engine, isa=isa, num_threads=2) as llm:
                got = llm.generate(TOKENS, params).context_logits
        except EngineryError as error:
            # This machine lacks it; portable runs anywhere.
            assert isa != "portable" and "isa" in str(error)
            continue
        assert got is not None and got.shape == expected.shape
        assert relative_error(got, expected).max() <= limit, isa
    return ranks


@pytest.mark.parametrize(
    ("scheme", "options", "version", "dtype", "limit"),
    [
        ("float32", {}, 1, "f32", FLOAT32),
        ("bfloat16", {}, 1, "bf16", BFLOAT16),
        ("int8_dynamic", {}, 1, "i8", INT8),
        ("int8_sq", {}, 2, "i8", BFLOAT16),
        ("int8_sq", {"dtype": "float32"}, 2, "i8", FLOAT32),
        ("fp8", {"dtype": "float32"}, 2, "bf16", FLOAT32),
        ("float32", {"tp_size": 2}, 1, "f32", FLOAT32),
    ],
)
def test_scaled_attention(
    scheme: str, options: dict[str, Any], version: int, dtype: str, limit: float, tmp_path: Path
) -> None:
    # Sizes that no vector width divides.
    checkpoint = write_tiny_checkpoint(
        tmp_path / "checkpoint", "qwen3", head_dim=24, hidden_size=136, intermediate_size=328
    )
    add_factors(checkpoint)
    with builds_with("build_decoder", with_factors):
        engine = build_engine(checkpoint, tmp_path / "engine", scheme, **ENGINE, **options)
    ranks = check(engine, limit, options.get("tp_size", 1))
    width = 96 // len(ranks)
    for rank in ranks:
        made = [step for step in rank.steps if step.op == "scale_columns"]
        assert [step.version for step in made] == [version] * 2
        for step in made:
            assert step.inputs[1] is not None and step.inputs[1].name.endswith("o_proj.factor")
            assert (step.outputs[0].dtype, step.outputs[0].columns) == (dtype, width)


def test_ranks_have_the_factors_of_their_heads(tmp_path: Path) -> None:
    checkpoint = add_factors(write_tiny_checkpoint(tmp_path / "checkpoint", "llama"))
    factors = []
    with builds_with("build_decoder", with_factors):
        for tp_size in (1, 2):
            engine = build_engine(checkpoint, tmp_path / str(tp_size), tp_size=tp_size)
            files = [read_engine(engine / f"rank{rank}.engine") for rank in range(tp_size)]
            shares = [
                step.inputs[1].array  # type: ignore[union-attr]
                for file in files
                for step in file.steps[:8]
                if step.op == "scale_columns"
            ]
            assert len(shares) == tp_size
            factors.append(np.concatenate(shares))
            ops = Counter(step.op for step in files[0].steps)
            assert ops["all_reduce"] == (4 if tp_size == 2 else 0)
    assert np.array_equal(factors[0], factors[1]) and len(set(factors[0])) == 128


@pytest.mark.parametrize(
    ("scheme", "dtype", "limit"),
    [("float32", "f32", FLOAT32), ("int4_wo", "bf16", BFLOAT16), ("w4a8_dynamic", "i8", INT8)],
)
@pytest.mark.parametrize("group", [48, 128])
def test_sums_of_groups(scheme: str, dtype: str, limit: float, group: int, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(
        tmp_path / "checkpoint", "llama", head_dim=64, intermediate_size=384
    )
    with builds_with("run_passes", functools.partial(with_group_sums, group=group)):
        engine = build_engine(checkpoint, tmp_path / "engine", scheme, **ENGINE)
    (rank,) = check(engine, limit)
    made = [step for step in rank.steps if step.op == "group_sums"]
    assert [step.attributes for step in made] == [{"group": group}] * 2
    expected = (-(-128 // group), "f32", dtype)
    for step in made:
        x, (y,) = step.inputs[0], step.outputs
        assert (y.columns, y.dtype, getattr(x, "dtype", None)) == expected
