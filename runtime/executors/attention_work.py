# SPDX-License-Identifier: Apache-2.0
"""Cuts a step's attention into work items of bounded size.

A sequence that brings one token (decode) is cut along its context, at fixed multiples of
`split_tokens` from position 0 on; a merge then joins the partial results of a token. Where it is
cut depends on the sequence alone, so a token's result does not depend on what runs beside it. A
sequence that brings several tokens (prefill) is cut along its queries; an item walks all of the
context that its queries see.

    context of a decode   |---- item ----|---- item ----|-- item --|     one token, three partials
                          0            split          2 split     length
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

WORK_FIELDS = (
    "sequence", "first_query", "num_query", "kv_begin", "kv_end", "partial_index", "_0", "_1",
)  # fmt: skip
"""Columns of a work item. first_query is a packed token; partial_index is -1 where the item
writes the token's result, else the place of its partial result; num_query 0 is padding."""
MERGE_FIELDS = ("token", "first_partial", "count", "_0")
"""Columns of a merge: the partials [first_partial, first_partial + count) are those of token."""
SEQUENCE, FIRST_QUERY, NUM_QUERY, KV_BEGIN, KV_END, PARTIAL_INDEX = range(6)


@dataclass(frozen=True)
class AttentionCut:
    """How the layers of one sliding window are cut."""

    sliding_window: int
    """Positions that a query sees, its own included; 0: all."""
    split_tokens: int
    queries_per_item: int
    """Of prefill items."""

    def max_splits(self, max_seq_len: int) -> int:
        """Items of one decode token at most."""
        splits = -(-max_seq_len // self.split_tokens)
        if self.sliding_window:
            # A window that begins inside of a split touches one more.
            splits = min(splits, -(-self.sliding_window // self.split_tokens) + 1)
        return splits

    def first_position(self, position: Any, split: int) -> Any:
        """Where the context of a query at `position` begins, down to a multiple of `split`."""
        if not self.sliding_window:
            return position * 0
        first = np.maximum(position - (self.sliding_window - 1), 0)
        return first // split * split


def write_decode(
    cut: AttentionCut,
    sequences: npt.NDArray[Any],
    tokens: npt.NDArray[Any],
    context_lens: npt.NDArray[Any],
    work: Int32Array,
    merge: Int32Array,
    max_items: int,
) -> tuple[int, int]:
    """Writes the items of sequences that bring one token each.

    Args:
        cut: how.
        sequences: int [n], rows of the block tables.
        tokens: int [n], packed tokens.
        context_lens: int [n], at least 1, the token included.
        work: int32 [at least the items, 8], written from its start on.
        merge: int32 [at least n, 4], likewise.
        max_items: no more are written, unless the sequences are more.

    Returns:
        (items, merges) written; partial results are numbered from 0.
    """
    split = cut.split_tokens
    while True:
        begin = cut.first_position(context_lens - 1, split)
        counts = (context_lens - begin + (split - 1)) // split
        num_items = int(counts.sum())
        if num_items <= max(max_items, len(counts)):
            break
        # Sequences that share blocks can have more context between them than the KV cache has
        # room for, which bounds the partials. Then splits are longer for this step.
        split *= 2
    # A row per sequence, repeated for its items and then advanced from item to item.
    rows = np.zeros((len(counts), len(WORK_FIELDS)), np.int32)
    rows[:, SEQUENCE] = sequences
    rows[:, FIRST_QUERY] = tokens
    rows[:, NUM_QUERY] = 1
    rows[:, KV_BEGIN] = begin
    rows[:, KV_END] = context_lens
    rows[:, PARTIAL_INDEX] = -1
    items = work[:num_items]
    if num_items == len(counts):
        items[:] = rows
        return num_items, 0
    is_cut = counts > 1
    num_partials = counts * is_cut
    first_partial = np.cumsum(num_partials) - num_partials
    first_item = np.cumsum(counts) - counts
    rows[:, KV_BEGIN] -= (first_item * split).astype(np.int32)
    rows[:, PARTIAL_INDEX] = np.where(is_cut, first_partial, -1) - first_item
    items[:] = rows.repeat(counts, axis=0)
    index = np.arange(num_items, dtype=np.int32)
    items[:, PARTIAL_INDEX] += index
    kv_begin = items[:, KV_BEGIN] + index * np.int32(split)
    items[:, KV_BEGIN] = kv_begin
    np.minimum(items[:, KV_END], kv_begin + np.int32(split), out=items[:, KV_END])
    merges = merge[: np.count_nonzero(is_cut)]
    merges[:, 0] = tokens[is_cut]
    merges[:, 1] = first_partial[is_cut]
    merges[:, 2] = counts[is_cut]
    merges[:, 3] = 0
    return num_items, len(merges)


def write_prefill(
    cut: AttentionCut,
    sequences: npt.NDArray[Any],
    first_tokens: npt.NDArray[Any],
    num_tokens: npt.NDArray[Any],
    context_lens: npt.NDArray[Any],
    work: Int32Array,
) -> int:
    """Writes the items of sequences that bring several tokens each.

    Args:
        cut: how.
        sequences: int [n], rows of the block tables.
        first_tokens: int [n], the first packed token of each.
        num_tokens: int [n], that each brings.
        context_lens: int [n], those tokens included.
        work: int32 [at least the items, 8], written from its start on.

    Returns:
        The number of items.
    """
    if not len(sequences):
        return 0
    tile = cut.queries_per_item
    counts = (num_tokens + (tile - 1)) // tile
    num_items = int(counts.sum())
    of = np.repeat(np.arange(len(counts)), counts)
    first_item = np.cumsum(counts) - counts
    first = (np.arange(num_items) - first_item[of]) * tile  # query within its sequence
    num_query = np.minimum(tile, num_tokens[of] - first)
    position = (context_lens - num_tokens)[of] + first
    begin = cut.first_position(position, cut.split_tokens)
    end = position + num_query
    # Longest first: nothing long begins when the rest is done.
    order = np.argsort(begin - end, kind="stable")
    items = work[:num_items]
    items[:, SEQUENCE] = sequences[of][order]
    items[:, FIRST_QUERY] = (first_tokens[of] + first)[order]
    items[:, NUM_QUERY] = num_query[order]
    items[:, KV_BEGIN] = begin[order]
    items[:, KV_END] = end[order]
    items[:, PARTIAL_INDEX] = -1
    items[:, 6:] = 0
    return num_items


def write_step(
    cut: AttentionCut,
    cu_seqlens_q: Int32Array,
    context_lens: Int32Array,
    work: Int32Array,
    merge: Int32Array,
    max_decode_items: int,
) -> tuple[int, int]:
    """Writes the items of a step that mixes prefill and decode; returns (items, merges).

    Prefill items come first: they take longest.
    """
    num_tokens = np.diff(cu_seqlens_q)
    is_decode = num_tokens == 1
    long, short = np.flatnonzero(~is_decode), np.flatnonzero(is_decode)
    num_prefill = write_prefill(
        cut, long, cu_seqlens_q[long], num_tokens[long], context_lens[long], work
    )
    num_decode, num_merges = write_decode(
        cut,
        short,
        cu_seqlens_q[short],
        context_lens[short],
        work[num_prefill:],
        merge,
        max_decode_items,
    )
    return num_prefill + num_decode, num_merges
