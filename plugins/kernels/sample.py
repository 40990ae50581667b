# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Draws tokens from rows of logits by the rules of the runtime's sampler, without sorting.

The rules are those of `runtime/src/sample/sampler.h`. A vocabulary of 150,000 does not fit a
program to be sorted, so that ranks are found as thresholds, by halving the range of float32 bit
patterns: as exact as a sort. Of equal values the lowest ids are kept.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .philox import uniform_at
from .programmatic import wait_for_previous
from .sample_list import (
    LOWEST_KEY,
    compact,
    draw_from,
    sum_of_kept,
    top_k_bound,
    top_p_bound,
    weigh,
)

GREEDY = tl.constexpr(1)  # bits of a record's flags
HOST_ONLY = tl.constexpr(2)
RECORD_WORDS = tl.constexpr(10)


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
    wait_for_previous()
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
    top_k = tl.where((top_k > 0) & (top_k < VOCAB), top_k, VOCAB)
    u = uniform_at(
        tl.load(record + 6), tl.load(record + 7), tl.load(record + 8), tl.load(record + 9)
    )
    total = tl.full([], 0.0, tl.float64)
    if top_k == VOCAB:  # else top_p is a share of what top_k leaves
        total = sum_of_kept(
            row, VOCAB, largest, temperature, LOWEST_KEY, -1, -1, -1, 0.0, BLOCK, False
        )
    token = tl.full([], -1, tl.int32)
    if scratch is not None:  # noqa: SIM102 (of two kinds: a constant, and a condition at run time)
        if (top_k < VOCAB) | (top_p < 1.0) | (min_p > 0.0):
            dropped = (1.0 - top_p.to(tl.float64)) * total
            count = compact(row, largest, temperature, top_k, dropped, min_p, scratch, VOCAB, BLOCK)
            if count <= BLOCK:
                index = _draw_from_list(
                    scratch, count, largest, temperature, top_k, top_p, min_p, total, u,
                    VOCAB, BLOCK, True,
                )  # fmt: skip
                token = tl.load(scratch + BLOCK + index).to(tl.int32)
    if token < 0:
        token = _draw_from_list(
            row, tl.full([], VOCAB, tl.int32), largest, temperature, top_k, top_p, min_p, total, u,
            VOCAB, BLOCK, False,
        )  # fmt: skip
    return token


@triton.jit
def _draw_from_list(
    values, size, largest, temperature, top_k, top_p, min_p, total, u,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr, IS_OWN: tl.constexpr,
):  # fmt: skip
    """Returns the index drawn of a list (see sample_list); one of its own may be written to."""
    key_at = tl.full([], LOWEST_KEY, tl.int32)
    key_last = tl.full([], -1, tl.int32)
    if top_k < VOCAB:
        key_at, key_last = top_k_bound(values, size, largest, top_k, BLOCK)
    if IS_OWN:
        weigh(values, size, largest, temperature, key_at, key_last, BLOCK)
    bits_at = tl.full([], -1, tl.int32)
    bits_last = tl.full([], -1, tl.int32)
    if top_p < 1.0:
        if top_k < VOCAB:
            total = sum_of_kept(
                values, size, largest, temperature,
                key_at, key_last, bits_at, bits_last, 0.0, BLOCK, IS_OWN,
            )  # fmt: skip
        bits_at, bits_last = top_p_bound(
            values, size, largest, temperature,
            key_at, key_last, top_p.to(tl.float64) * total, BLOCK, IS_OWN,
        )  # fmt: skip
    return draw_from(
        values, size, largest, temperature,
        key_at, key_last, bits_at, bits_last, min_p, u, BLOCK, IS_OWN,
    )  # fmt: skip
