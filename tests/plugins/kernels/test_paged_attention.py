# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_attention import Heads
from tests.plugins.kernels.attention_batch import AttentionBatch

# Half a unit in the last place of what is stored, and float32 sums of values of a few units.
TOLERANCE = {"bfloat16": (2.0**-8, 2e-5), "float16": (2.0**-11, 2e-5)}

BATCHES = {
    "prompt of one token": AttentionBatch([(0, 1)], Heads(1, 1, 64)),
    "prompts at the edge of a block": AttentionBatch([(0, 3), (0, 4), (0, 5)], Heads(2, 1, 64)),
    "contexts at the edge of a tile": AttentionBatch([(14, 1), (15, 1), (16, 1)], Heads(4, 2, 64)),
    "decode over several splits": AttentionBatch([(79, 1)], Heads(8, 1, 64), split=32),
    "splits that end with a split": AttentionBatch([(63, 1)], Heads(3, 1, 64), split=32),
    "more splits than merged at once": AttentionBatch(
        [(283, 1)], Heads(1, 1, 16), split=16, tokens_per_block=16
    ),
    "decodes, a chunk and a prompt": AttentionBatch(
        [(40, 1), (19, 9), (0, 13), (5, 1), (70, 1)], Heads(8, 2, 64), split=32, block_m=32
    ),
    "group of 3": AttentionBatch([(9, 7), (33, 1)], Heads(6, 2, 80), split=16),
    "group of 7": AttentionBatch([(2, 5), (33, 1)], Heads(7, 1, 96), act="float16", kv="float16"),
    "group of 1": AttentionBatch([(17, 20)], Heads(2, 2, 128), act="float16", kv="float16"),
    "window within a tile": AttentionBatch([(37, 6), (44, 1)], Heads(4, 1, 64), sliding_window=5),
    "window over tiles": AttentionBatch(
        [(0, 37), (90, 1)], Heads(4, 2, 64), sliding_window=24, split=32
    ),
    "window of one": AttentionBatch([(0, 3), (40, 1)], Heads(1, 1, 64), sliding_window=1, split=16),
    "window wider than all": AttentionBatch([(3, 20)], Heads(4, 2, 64), sliding_window=4096),
    "int8 cache": AttentionBatch([(20, 6), (50, 1)], Heads(8, 2, 80), kv="int8", split=32),
    "fp8 cache": AttentionBatch([(20, 6), (50, 1)], Heads(4, 1, 64), kv="float8_e4m3fn", split=32),
    "tiles shorter than a block": AttentionBatch(
        [(66, 1), (30, 10)], Heads(4, 2, 64), tokens_per_block=32, split=32
    ),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_against_reference(batch: AttentionBatch) -> None:
    relative, absolute = TOLERANCE[batch.act]
    np.testing.assert_allclose(batch.run(), batch.expected(), rtol=relative * 1.01, atol=absolute)


def test_result_does_not_depend_on_the_batch() -> None:
    """The same decode, alone and among others, in another place of the packed tokens."""
    heads = Heads(4, 2, 64)
    together = AttentionBatch([(8, 5), (70, 1), (33, 1)], heads, split=32)
    token = int(together.first_tokens[1])
    alone = AttentionBatch([(70, 1)], heads, split=32)
    alone.qkv = together.qkv[token : token + 1].contiguous()
    alone.caches, alone.tables = together.caches, together.tables[1:2].copy()
    assert np.array_equal(alone.run()[0], together.run()[token])


def test_padding_items_write_nothing() -> None:
    batch = AttentionBatch([(3, 2)], Heads(2, 1, 64))
    batch.plan = lambda: ([[0] * 8] * 3, [[0] * 4])  # type: ignore[method-assign]
    assert np.isnan(batch.run()).all()


def test_a_wrong_table_is_noticed() -> None:
    """The cases above can fail: one exchanged pair of blocks changes the result."""
    batch = dataclasses.replace(BATCHES["decode over several splits"])
    expected = batch.expected()
    batch.tables[0, [0, 5]] = batch.tables[0, [5, 0]]
    assert np.array_equal(batch.expected(), expected) is False
    assert np.abs(batch.run() - expected).max() < 0.02, "attention is a sum over a set"
    batch.tables[0, 5] = batch.tables[0, 6]
    assert np.abs(batch.run() - expected).max() > 0.02


def test_combine_against_reference() -> None:
    import torch

    rng = np.random.default_rng(0)
    partial = rng.standard_normal((40, 3, 80)).astype(np.float32)
    stats = np.stack([rng.normal(0, 9, (40, 3)), rng.random((40, 3)) + 1], axis=-1)
    stats = stats.astype(np.float32)
    merge = np.array([[2, 0, 1, 0], [0, 1, 17, 0], [1, 18, 16, 0]], np.int32)
    out = torch.full((4, 3, 80), float("nan"), dtype=torch.float16)
    spec.load("combine")[(3 * 3,)](
        torch.from_numpy(partial), torch.from_numpy(stats), torch.from_numpy(merge), out,
        NUM_HEADS=3, HEAD_DIM=80, HEAD_BLOCK=128,
    )  # fmt: skip
    expected = spec.load_reference("combine")(partial, stats, merge)
    assert np.allclose(out[[2, 0, 1]].numpy(), expected, rtol=2.0**-10, atol=1e-4)
    assert torch.isnan(out[3]).all()
