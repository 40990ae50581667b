# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Passes over a list of logits in order of token id, for `sample`.

A list is `values` float32 [size], of logits, or where IS_WEIGHED of weights. What has been filtered
is not moved: a pass keeps element i when
(its key > key_at, or equals it and i <= key_last), the key being the logit's place in the order of
all float32 (top_k); and (its weight's bits > bits_at, or equal it and i <= bits_last) (top_p); and
its weight >= min_p.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST_KEY = tl.constexpr(-0x7FFFFFFF)  # below that of every float32
BITS_OF_ONE = tl.constexpr(0x3F800000)
NUM_BINS = tl.constexpr(256)
BINS_PER_LOGIT = tl.constexpr(16.0)


@triton.jit
def exp_nonpositive(x):
    """exp(x) for x <= 0 by the steps, and nearly always to the bit, of the runtime's sampler.

    2^n exp(r), |r| <= ln(2) / 2; ln(2) in two parts, and exp's Taylor series to degree 7; 0 below
    -87.
    """
    clamped = tl.maximum(x, -87.0)
    n = (clamped * 1.44269504 + 12582912.0) - 12582912.0
    r = (clamped - n * 0.693359375) - n * -2.12194440e-4
    p = r * 0.0001984126984126984 + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    p = p * r + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    power = ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.0, 0.0, p * power)


@triton.jit
def key_of(x):
    """int32 in the order of float32 `x`; -0 and 0 are one."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def kept_weight(
    values, i, size, largest, temperature,
    key_at, key_last, bits_at, bits_last, min_p, IS_WEIGHED: tl.constexpr,
):  # fmt: skip
    """exp((value - largest) / temperature) of elements `i`; 0 where filtered."""
    if IS_WEIGHED:
        weight = tl.load(values + i, mask=i < size, other=0.0)
        kept = i < size
    else:
        x = tl.load(values + i, mask=i < size, other=float("-inf"))
        weight = exp_nonpositive(tl.div_rn(x - largest, temperature))
        key = key_of(x)
        kept = ((key > key_at) | ((key == key_at) & (i <= key_last))) & (i < size)
    bits = weight.to(tl.int32, bitcast=True)
    kept = kept & ((bits > bits_at) | ((bits == bits_at) & (i <= bits_last)))
    return tl.where(kept & (weight >= min_p), weight, 0.0)


@triton.jit
def weigh(values, size, largest, temperature, key_at, key_last, BLOCK: tl.constexpr):
    """Replaces the list's logits by weights, once and for all passes that follow; size <= BLOCK."""
    i = tl.arange(0, BLOCK)
    weight = kept_weight(
        values, i, size, largest, temperature, key_at, key_last, -1, -1, 0.0, False
    )
    tl.debug_barrier()
    tl.store(values + i, weight, mask=i < size)
    tl.debug_barrier()


@triton.jit
def sum_of_kept(
    values, size, largest, temperature,
    key_at, key_last, bits_at, bits_last, min_p, BLOCK: tl.constexpr, IS_WEIGHED: tl.constexpr,
):  # fmt: skip
    """Returns the kept weights' sum, float64."""
    # A sum per lane, and across lanes once at the end, where the threads have to wait for another.
    lanes = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        lanes += kept_weight(
            values, start + tl.arange(0, BLOCK), size, largest, temperature,
            key_at, key_last, bits_at, bits_last, min_p, IS_WEIGHED,
        )  # fmt: skip
    return tl.sum(lanes.to(tl.float64), axis=0)


@triton.jit
def compact(
    row, largest, temperature, top_k, dropped, min_p, scratch,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copies the logits that may be drawn to scratch[0], their ids to scratch[1], in order.

    A histogram of the distance from the largest says which cannot: those of bins below the one of
    rank `top_k`, and, without top_k, of the lowest bins that together weigh at most `dropped`.

    Returns:
        How many may be drawn; scratch holds the first BLOCK of them. Ids are exact in float32.
    """
    offset = tl.arange(0, BLOCK)
    histogram = tl.zeros([NUM_BINS], tl.int32)
    for start in range(0, VOCAB, BLOCK):
        mask = start + offset < VOCAB
        x = tl.load(row + start + offset, mask=mask, other=float("-inf"))
        histogram += tl.histogram(_bin_of(x, largest), NUM_BINS, mask=mask)
    ranks = tl.cumsum(histogram, axis=0)
    last_bin = tl.sum((ranks < top_k).to(tl.int32), axis=0)
    if top_k == VOCAB:
        edge = tl.arange(0, NUM_BINS).to(tl.float32) / -BINS_PER_LOGIT  # its likeliest logit
        heaviest = histogram.to(tl.float32) * exp_nonpositive(edge / temperature)
        # What a bin and those beyond it may weigh, with room for rounding.
        tail = tl.sum(heaviest, axis=0) - tl.cumsum(heaviest, axis=0) + heaviest
        may_drop = tail.to(tl.float64) * 1.001 + 1e-6 * tl.sum(heaviest, axis=0) <= dropped
        last_bin = NUM_BINS - 1 - tl.sum(may_drop.to(tl.int32), axis=0)
    least = tl.where(top_k == VOCAB, min_p, 0.0)
    count = tl.full([], 0, tl.int32)
    for start in range(0, VOCAB, BLOCK):
        i = start + offset
        x = tl.load(row + i, mask=i < VOCAB, other=float("-inf"))
        weight = exp_nonpositive(tl.div_rn(x - largest, temperature))
        chosen = (_bin_of(x, largest) <= last_bin) & (weight >= least) & (i < VOCAB)
        place = count + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        fits = chosen & (place < BLOCK)
        tl.store(scratch + place, x, mask=fits)
        tl.store(scratch + BLOCK + place, i.to(tl.float32), mask=fits)
        count += tl.sum(chosen.to(tl.int32), axis=0)
    tl.debug_barrier()  # other threads read what these have written
    return count


@triton.jit
def _bin_of(x, largest):
    return tl.minimum((largest - x) * BINS_PER_LOGIT, NUM_BINS - 1.0).to(tl.int32)


@triton.jit
def _count_from(values, size, key, BLOCK: tl.constexpr):
    """Returns how many have at least `key`."""
    lanes = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(values + i, mask=i < size, other=float("-inf"))
        lanes += ((key_of(x) >= key) & (i < size)).to(tl.int32)
    return tl.sum(lanes, axis=0)


@triton.jit
def top_k_bound(values, size, largest, top_k, BLOCK: tl.constexpr):
    """Returns (key_at, key_last) that keep the first `top_k` in rank; size >= top_k."""
    # At least top_k have the key `low`, fewer have one above `high`.
    low = tl.full([], LOWEST_KEY, tl.int32)
    high = key_of(largest)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)  # rounded up, without overflow
        count = _count_from(values, size, middle, BLOCK)
        if count >= top_k:
            low = middle
            high = tl.where(count == top_k, middle, high)
        else:
            high = middle - 1
    wanted = top_k - _count_from(values, size, low + 1, BLOCK)
    last = tl.full([], -1, tl.int32)
    seen = tl.full([], 0, tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(values + i, mask=i < size, other=float("-inf"))
        is_equal = (key_of(x) == low) & (i < size)
        rank = seen + tl.cumsum(is_equal.to(tl.int32), axis=0)
        last = tl.maximum(last, tl.max(tl.where(is_equal & (rank <= wanted), i, -1), axis=0))
        seen += tl.sum(is_equal.to(tl.int32), axis=0)
    return low, last


@triton.jit
def top_p_bound(
    values, size, largest, temperature, key_at, key_last, wanted,
    BLOCK: tl.constexpr, IS_WEIGHED: tl.constexpr,
):  # fmt: skip
    """Returns (bits_at, bits_last) of the first in rank whose weights reach the sum `wanted`."""
    low = tl.full([], 0, tl.int32)
    high = tl.full([], BITS_OF_ONE, tl.int32)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)
        total = sum_of_kept(
            values, size, largest, temperature,
            key_at, key_last, middle, size, 0.0, BLOCK, IS_WEIGHED,
        )  # fmt: skip
        if total >= wanted:
            low = middle
        else:
            high = middle - 1
    above = sum_of_kept(
        values, size, largest, temperature, key_at, key_last, low, -1, 0.0, BLOCK, IS_WEIGHED
    )
    weight = tl.maximum(low.to(tl.float32, bitcast=True), 1e-38).to(tl.float64)
    num_equal = tl.ceil((wanted - above) / weight)
    num_equal = tl.minimum(tl.maximum(num_equal, 1.0), size.to(tl.float64)).to(tl.int32)
    last = tl.full([], -1, tl.int32)
    seen = tl.full([], 0, tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        kept = kept_weight(
            values, i, size, largest, temperature, key_at, key_last, low - 1, -1, 0.0, IS_WEIGHED
        )
        is_equal = (kept.to(tl.int32, bitcast=True) == low) & (i < size)
        rank = seen + tl.cumsum(is_equal.to(tl.int32), axis=0)
        last = tl.maximum(last, tl.max(tl.where(is_equal & (rank <= num_equal), i, -1), axis=0))
        seen += tl.sum(is_equal.to(tl.int32), axis=0)
    return low, last


@triton.jit
def draw_from(
    values, size, largest, temperature,
    key_at, key_last, bits_at, bits_last, min_p, u,
    BLOCK: tl.constexpr, IS_WEIGHED: tl.constexpr,
):  # fmt: skip
    """Returns the index at the share `u` of the kept weights' cumulative sum, never of weight 0."""
    target = u * sum_of_kept(
        values, size, largest, temperature,
        key_at, key_last, bits_at, bits_last, min_p, BLOCK, IS_WEIGHED,
    )  # fmt: skip
    # The block where the sum passes the target; the last with any weight where rounding leaves
    # none.
    block = tl.full([], 0, tl.int32)
    before = tl.full([], 0.0, tl.float64)
    total = tl.full([], 0.0, tl.float64)
    for start in range(0, size, BLOCK):
        weight = kept_weight(
            values, start + tl.arange(0, BLOCK), size, largest, temperature,
            key_at, key_last, bits_at, bits_last, min_p, IS_WEIGHED,
        )  # fmt: skip
        here = tl.sum(weight, axis=0).to(tl.float64)
        if (total <= target) & (here > 0.0):
            block = start
            before = total
        total += here
    i = block + tl.arange(0, BLOCK)
    weight = kept_weight(
        values, i, size, largest, temperature,
        key_at, key_last, bits_at, bits_last, min_p, IS_WEIGHED,
    )  # fmt: skip
    is_past = tl.cumsum(weight, axis=0).to(tl.float64) > target - before
    first = tl.min(tl.where(is_past & (weight > 0.0), i, size), axis=0)
    last = tl.max(tl.where(weight > 0.0, i, -1), axis=0)
    return tl.where(first < size, first, last)
