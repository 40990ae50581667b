# SPDX-License-Identifier: Apache-2.0
"""Batches as a scheduler would make them, from what each sequence brings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from enginery.runtime.batch import SAMPLE_DTYPE, SAMPLE_GREEDY, ScheduledBatch


def make_batch(
    sequences: Sequence[tuple[int, int]],
    *,
    tokens_per_block: int = 16,
    flags: int = SAMPLE_GREEDY,
    samples_per_sequence: int = 1,
    block_copies: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> ScheduledBatch:
    """A step over (num_tokens, num_computed) of each sequence; each draws from its last token.

    Blocks are given out in order, so that no two sequences share one.
    """
    stream = np.random.default_rng(seed)
    positions, slots, tables = [], [], []
    next_block = 0
    for num_tokens, num_computed in sequences:
        length = num_tokens + num_computed
        num_blocks = -(-length // tokens_per_block)
        table = np.arange(next_block, next_block + num_blocks)
        next_block += num_blocks
        at = np.arange(num_computed, length)
        positions.append(at)
        slots.append(table[at // tokens_per_block] * tokens_per_block + at % tokens_per_block)
        tables.append(table)
    width = max(map(len, tables))
    block_tables = np.full((len(sequences), width), -1, np.int32)
    for row, table in zip(block_tables, tables, strict=True):
        row[: len(table)] = table
    cu_seqlens_q = np.concatenate([[0], np.cumsum([count for count, _ in sequences])])
    rows = cu_seqlens_q[1:] - 1
    samples = np.zeros(len(rows) * samples_per_sequence, SAMPLE_DTYPE)
    samples["logit_row"] = np.repeat(np.arange(len(rows)), samples_per_sequence)
    samples["flags"] = flags
    samples["position"] = 7
    return ScheduledBatch(
        step_id=0,
        token_ids=stream.integers(300, size=cu_seqlens_q[-1]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        cu_seqlens_q=cu_seqlens_q.astype(np.int32),
        context_lens=np.array([sum(sequence) for sequence in sequences], np.int32),
        block_tables=block_tables,
        slot_mapping=np.concatenate(slots).astype(np.int64),
        block_copies=np.array(block_copies, np.int32).reshape(-1, 2),
        logit_rows=rows.astype(np.int32),
        samples=samples,
    )
