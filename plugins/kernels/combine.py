# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Merge of the splits of a query's keys into its attention."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .programmatic import wait_for_previous

# Splits merged at once: enough loads in flight to hide their latency.
SPLITS = tl.constexpr(16)


@triton.jit
def combine(
    partial, partial_stats, merge, out,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
):  # fmt: skip
    """out[token] = the sum over a query's splits, normalised, in the order of the splits.

    Grid: num_merges * NUM_HEADS. merge [merges, 4]: token, first partial index, count (0: padding),
    0; partial and partial_stats as `paged_attention` writes them; out [T, NUM_HEADS HEAD_DIM].
    """
    wait_for_previous()
    entry = merge + (tl.program_id(0) // NUM_HEADS) * 4
    head = tl.program_id(0) % NUM_HEADS
    count = tl.load(entry + 2)
    if count == 0:
        return
    token = tl.load(entry).to(tl.int64)
    first = tl.load(entry + 1).to(tl.int64)
    dim = tl.arange(0, HEAD_BLOCK)
    dim_mask = dim < HEAD_DIM
    largest = tl.full((1,), -1e30, tl.float32)
    total = tl.zeros((1,), tl.float32)
    acc = tl.zeros((HEAD_BLOCK,), tl.float32)
    for start in tl.range(0, count, SPLITS):
        split = start + tl.arange(0, SPLITS)
        mask = split < count
        index = (first + split) * NUM_HEADS + head
        split_max = tl.load(partial_stats + index * 2, mask=mask, other=-1e30)
        split_sum = tl.load(partial_stats + index * 2 + 1, mask=mask, other=0.0)
        value = tl.load(
            partial + index[:, None] * HEAD_DIM + dim[None, :],
            mask=mask[:, None] & dim_mask[None, :],
            other=0.0,
        )
        new_largest = tl.maximum(largest, tl.max(split_max, axis=0))
        correction = tl.exp2(largest - new_largest)
        weight = tl.exp2(split_max - new_largest)
        total = total * correction + tl.sum(weight * split_sum, axis=0)
        acc = acc * correction + tl.sum(weight[:, None] * value, axis=0)
        largest = new_largest
    at = (token * NUM_HEADS + head) * HEAD_DIM + dim
    tl.store(out + at, to_stored(acc / total, out.dtype.element_ty), mask=dim_mask)
