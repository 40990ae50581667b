# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-untyped-decorators
"""Draws tokens from rows of logits by the rules of the runtime's sampler, without sorting.

The rules are those of `runtime/src/sample/sampler.h`. A vocabulary of 150,000 does not fit a
program to be sorted, so that ranks are found as thresholds, by halving the range of float32 bit
patterns: as exact as a sort. Of equal values the lowest ids are kept.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .philox import uniform_at
from .sample_list import compact, draw_from, sum_of_kept, top_k_bound, top_p_bound

GREEDY = tl.constexpr(1)  # bits of a record's flags
HOST_ONLY = tl.constexpr(2)
RECORD_WORDS = tl.constexpr(10)
# Below every key of a float32, and below the bits of every weight.
ALL_KEYS = tl.constexpr(-0x7FFFFFFF)
ALL_BITS = tl.constexpr(-1)


@triton.jit
def sample(logits, samples, token_ids, scratch, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Draws token_ids[s] as samples[s] says; grid: the samples.

    -1 where the record is the host's to sample, a logit is NaN or +infinity, or all are -infinity.

    Args:
        logits: float32 [rows, VOCAB].
        samples: int32 [num_samples, 10], the words of `SAMPLE_DTYPE` of the runtime's batch.
        token_ids: int32 [num_samples].
        scratch: float32 [num_samples, 2, BLOCK], for the likeliest tokens, so that the row is read
            a few times only; or None.
        VOCAB: width of a row, below 2^24.
        BLOCK: elements per step, a power of two.
    """
    program = tl.program_id(0)
    record = samples + program * RECORD_WORDS
    flags = tl.load(record + 1)
    token = tl.full([], -1, tl.int32)
    if (flags & HOST_ONLY) == 0:
        row = logits + tl.load(record).to(tl.int64) * VOCAB
        largest, first, is_valid = _find_max(row, VOCAB, BLOCK)
        temperature = tl.load(record + 2).to(tl.float32, bitcast=True)
        is_greedy = ((flags & GREEDY) != 0) | (temperature == 0.0) | (tl.load(record + 5) == 1)
        if is_valid & (largest > float("-inf")):
            token = first
            if is_greedy == 0:
                if scratch is None:
                    token = _draw(row, record, largest, temperature, None, VOCAB, BLOCK)
                else:
                    own = scratch + program.to(tl.int64) * (2 * BLOCK)
                    token = _draw(row, record, largest, temperature, own, VOCAB, BLOCK)
    tl.store(token_ids + program, token)


@triton.jit
def _find_max(row, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Returns (the largest, the lowest id that has it, whether no logit is NaN or +infinity)."""
    offset = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    first = offset
    is_bad = tl.zeros([BLOCK], tl.int32)
    for start in range(0, VOCAB, BLOCK):
        x = tl.load(row + start + offset, mask=start + offset < VOCAB, other=float("-inf"))
        is_bad = tl.where(x < float("inf"), is_bad, 1)  # a NaN compares false
        first = tl.where(x > largest, start + offset, first)
        largest = tl.where(x > largest, x, largest)
    value = tl.max(largest, axis=0)
    token = tl.min(tl.where(largest == value, first, VOCAB), axis=0)
    return value, token, tl.max(is_bad, axis=0) == 0


@triton.jit
def _draw(
    row, record, largest, temperature, scratch, VOCAB: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Returns the token at the record's random number in the filtered, cumulative distribution."""
    top_p = tl.load(record + 3).to(tl.float32, bitcast=True)
    min_p = tl.load(record + 4).to(tl.float32, bitcast=True)
    top_k = tl.load(record + 5)
    has_top_k = (top_k > 0) & (top_k < VOCAB)
    # A list is logits in order of token id: all of the row, or the likeliest in scratch.
    values = row
    size = tl.full([], VOCAB, tl.int32)
    # Of the list, (key > key_at or equal and index <= key_last) and likewise of weights' bits.
    key_at = tl.full([], ALL_KEYS, tl.int32)
    key_last = tl.full([], -1, tl.int32)
    bits_at = tl.full([], ALL_BITS, tl.int32)
    bits_last = tl.full([], -1, tl.int32)
    total = tl.full([], 0.0, tl.float64)
    if has_top_k == 0:
        total = sum_of_kept(
            values, size, largest, temperature,
            key_at, key_last, bits_at, bits_last, 0.0, BLOCK,
        )  # fmt: skip
    is_compact = tl.full([], False, tl.int1)
    if scratch is not None:
        if has_top_k | (top_p < 1.0) | (min_p > 0.0):
            # Tokens of at most this weight have together at most the share 1 - top_p.
            share = ((1.0 - top_p.to(tl.float64)) * total / VOCAB).to(tl.float32) * 0.999999
            least = tl.where(has_top_k, 0.0, tl.maximum(share, min_p))
            rank = tl.where(has_top_k, top_k, VOCAB)
            count = compact(row, largest, temperature, rank, least, scratch, VOCAB, BLOCK)
            if count <= BLOCK:
                is_compact = tl.full([], True, tl.int1)
                values = scratch
                size = count
    if has_top_k:
        key_at, key_last = top_k_bound(values, size, largest, top_k, BLOCK)
        total = sum_of_kept(
            values, size, largest, temperature,
            key_at, key_last, bits_at, bits_last, 0.0, BLOCK,
        )  # fmt: skip
    if top_p < 1.0:
        bits_at, bits_last = top_p_bound(
            values, size, largest, temperature,
            key_at, key_last, top_p.to(tl.float64) * total, BLOCK,
        )  # fmt: skip
    u = uniform_at(
        tl.load(record + 6), tl.load(record + 7), tl.load(record + 8), tl.load(record + 9)
    )
    index = draw_from(
        values, size, largest, temperature,
        key_at, key_last, bits_at, bits_last, min_p, u, BLOCK,
    )  # fmt: skip
    if scratch is not None:
        if is_compact:
            index = tl.load(scratch + BLOCK + index).to(tl.int32)
    return index
