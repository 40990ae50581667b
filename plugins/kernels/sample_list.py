# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-untyped-decorators
"""Passes over a list of logits in order of token id, for `sample`.

A list is `values` float32 [size]. What has been filtered is not moved: a pass keeps element i when
(its key > key_at, or equals it and i <= key_last), the key being the logit's place in the order of
all float32 (top_k); and (its weight's bits > bits_at, or equal it and i <= bits_last) (top_p); and
its weight >= min_p.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST_KEY = tl.constexpr(-0x7FFFFFFF)
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
    key_at, key_last, bits_at, bits_last, min_p,
):  # fmt: skip
    """exp((value - largest) / temperature) of elements `i`; 0 where filtered."""
    x = tl.load(values + i, mask=i < size, other=float("-inf"))
    weight = exp_nonpositive(tl.div_rn(x - largest, temperature))
    key = key_of(x)
    bits = weight.to(tl.int32, bitcast=True)
    kept = (key > key_at) | ((key == key_at) & (i <= key_last))
    kept = kept & ((bits > bits_at) | ((bits == bits_at) & (i <= bits_last)))
    return tl.where(kept & (weight >= min_p) & (i < size), weight, 0.0)


@triton.jit
def sum_of_kept(
    values, size, largest, temperature,
    key_at, key_last, bits_at, bits_last, min_p, BLOCK: tl.constexpr,
):  # fmt: skip
    """Returns the kept weights' sum, float64."""
    total = tl.full([], 0.0, tl.float64)
    for start in range(0, size, BLOCK):
        weight = kept_weight(
            values, start + tl.arange(0, BLOCK), size, largest, temperature,
            key_at, key_last, bits_at, bits_last, min_p,
        )  # fmt: skip
        total += tl.sum(weight, axis=0).to(tl.float64)
    return total


@triton.jit
def compact(
    row, largest, temperature, rank, least, scratch, VOCAB: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Copies what may be among the first `rank` and weighs `least` or more to scratch.

    Order stays. scratch[0] gets logits, scratch[1] token ids (exact in float32 below 2^24).

    Returns:
        How many they are; scratch holds the first BLOCK of them.
    """
    offset = tl.arange(0, BLOCK)
    histogram = tl.zeros([NUM_BINS], tl.int32)  # of the distance from the largest
    for start in range(0, VOCAB, BLOCK):
        mask = start + offset < VOCAB
        x = tl.load(row + start + offset, mask=mask, other=float("-inf"))
        histogram += tl.histogram(_bin_of(x, largest), NUM_BINS, mask=mask)
    last_bin = tl.sum((tl.cumsum(histogram, axis=0) < rank).to(tl.int32), axis=0)
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
    count = tl.full([], 0, tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        x = tl.load(values + i, mask=i < size, other=float("-inf"))
        count += tl.sum(((key_of(x) >= key) & (i < size)).to(tl.int32), axis=0)
    return count


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
    values, size, largest, temperature, key_at, key_last, wanted, BLOCK: tl.constexpr
):  # fmt: skip
    """Returns (bits_at, bits_last) of the first in rank whose weights reach the sum `wanted`."""
    low = tl.full([], 0, tl.int32)
    high = tl.full([], BITS_OF_ONE, tl.int32)
    while low < high:
        middle = (low | high) - ((low ^ high) >> 1)
        total = sum_of_kept(
            values, size, largest, temperature, key_at, key_last, middle, size, 0.0, BLOCK
        )
        if total >= wanted:
            low = middle
        else:
            high = middle - 1
    above = sum_of_kept(
        values, size, largest, temperature, key_at, key_last, low, -1, 0.0, BLOCK
    )  # fmt: skip
    weight = tl.maximum(low.to(tl.float32, bitcast=True), 1e-38).to(tl.float64)
    num_equal = tl.ceil((wanted - above) / weight)
    num_equal = tl.minimum(tl.maximum(num_equal, 1.0), size.to(tl.float64)).to(tl.int32)
    last = tl.full([], -1, tl.int32)
    seen = tl.full([], 0, tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        kept = kept_weight(
            values, i, size, largest, temperature, key_at, key_last, low - 1, -1, 0.0
        )
        is_equal = (kept.to(tl.int32, bitcast=True) == low) & (i < size)
        rank = seen + tl.cumsum(is_equal.to(tl.int32), axis=0)
        last = tl.maximum(last, tl.max(tl.where(is_equal & (rank <= num_equal), i, -1), axis=0))
        seen += tl.sum(is_equal.to(tl.int32), axis=0)
    return low, last


@triton.jit
def draw_from(
    values, size, largest, temperature,
    key_at, key_last, bits_at, bits_last, min_p, u, BLOCK: tl.constexpr,
):  # fmt: skip
    """Returns the index at the share `u` of the kept weights' cumulative sum, never of weight 0."""
    target = u * sum_of_kept(
        values, size, largest, temperature, key_at, key_last, bits_at, bits_last, min_p, BLOCK
    )
    # The block where the sum passes the target; the last with any weight where rounding leaves
    # none.
    block = tl.full([], 0, tl.int32)
    before = tl.full([], 0.0, tl.float64)
    total = tl.full([], 0.0, tl.float64)
    for start in range(0, size, BLOCK):
        weight = kept_weight(
            values, start + tl.arange(0, BLOCK), size, largest, temperature,
            key_at, key_last, bits_at, bits_last, min_p,
        )  # fmt: skip
        here = tl.sum(weight, axis=0).to(tl.float64)
        if (total <= target) & (here > 0.0):
            block = start
            before = total
        total += here
    i = block + tl.arange(0, BLOCK)
    weight = kept_weight(
        values, i, size, largest, temperature, key_at, key_last, bits_at, bits_last, min_p
    )
    is_past = tl.cumsum(weight, axis=0).to(tl.float64) > target - before
    first = tl.min(tl.where(is_past & (weight > 0.0), i, size), axis=0)
    last = tl.max(tl.where(weight > 0.0, i, -1), axis=0)
    return tl.where(first < size, first, last)
