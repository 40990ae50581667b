# SPDX-License-Identifier: Apache-2.0
"""What other families bring: biases, norms of heads, sliding windows, head sizes; and two ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import (
    EMULATED,
    TWO_RANKS,
    FloatArray,
    build_emulated,
    emulated,
    random_tokens,
    reference_logits,
)
from tests.support.tolerances import check_logits

NUM_TOKENS = 22


def run(engine: Path, tokens: list[int], provider: str = "onnx") -> FloatArray:
    """Prefill in two chunks, then a decode."""
    with emulated(engine, provider) as model:
        parts = [tokens[:2], tokens[2:-1], tokens[-1:]]
        logits: FloatArray = np.concatenate([model.step({"a": part})["a"] for part in parts])
        return logits


def test_windows_that_differ_between_layers(tmp_path: Path) -> None:
    # The first layer sees all, the second 9 positions: less than a split, over a split's border.
    checkpoint = write_tiny_checkpoint(
        tmp_path / "checkpoint", "qwen2", dtype="bfloat16", sliding_window=9, num_heads=2,
        num_kv_heads=1, config_overrides={"max_window_layers": 1},
    )  # fmt: skip
    engine = build_emulated(checkpoint, tmp_path / "engine")
    tokens = random_tokens(NUM_TOKENS, seed=4)
    expected = reference_logits(checkpoint, engine, tokens)
    check_logits(run(engine, tokens), expected, EMULATED["none"])


def test_norms_of_heads_and_a_padded_head_size(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(
        tmp_path / "checkpoint", "qwen3", dtype="bfloat16", head_dim=48, num_heads=3,
        num_kv_heads=1, hidden_size=144, intermediate_size=208,
    )  # fmt: skip
    engine = build_emulated(checkpoint, tmp_path / "engine")
    tokens = random_tokens(5, seed=5)
    expected = reference_logits(checkpoint, engine, tokens)
    check_logits(run(engine, tokens), expected, EMULATED["none"])


@pytest.mark.parametrize("provider", ["onnx", "native"])
def test_two_ranks_agree_with_one(provider: str, llama: Path, tmp_path: Path) -> None:
    tokens = random_tokens(5, seed=6)
    one = run(build_emulated(llama, tmp_path / "one"), tokens, provider)
    two = run(build_emulated(llama, tmp_path / "two", tp_size=2), tokens, provider)
    check_logits(two, one, TWO_RANKS)
