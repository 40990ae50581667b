# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Rotation of queries and keys, and the write of keys and values to the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .programmatic import wait_for_previous
from .rotary import sin_cos


@triton.jit
def normalise(
    first, second, weight, half, half_mask, EPSILON: tl.constexpr, HEAD_DIM: tl.constexpr
):
    """RMS-normalises heads given as halves [heads, HALF_BLOCK]; `weight` [HEAD_DIM] or None."""
    if weight is not None:
        squares = tl.sum(first * first + second * second, axis=1, keep_dims=True)
        factor = tl.rsqrt(squares / HEAD_DIM + EPSILON)
        low = tl.load(weight + half, mask=half_mask, other=0.0)
        high = tl.load(weight + HEAD_DIM // 2 + half, mask=half_mask, other=0.0)
        first = first * factor * low[None, :]
        second = second * factor * high[None, :]
    return first, second


@triton.jit
def kv_append(
    qkv, inv_freq, q_norm, k_norm, k_scale, v_scale, positions, slot_mapping, k_cache, v_cache,
    ROPE_SCALE: tl.constexpr, EPSILON: tl.constexpr, NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF_BLOCK: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr,
):  # fmt: skip
    """Rotates q in place; writes rotated k, and v, at slot_mapping of each cache.

    Grid: T * NUM_KV_HEADS. A program takes one key-value head of one token and the query heads
    that share it: the rotation is computed once for them, and they are enough work to hide its
    latency at T in the thousands, while a single token still spreads over NUM_KV_HEADS programs.

    qkv [T, (NUM_HEADS + 2 NUM_KV_HEADS) HEAD_DIM]; inv_freq [HEAD_DIM / 2]; q_norm, k_norm
    [HEAD_DIM] or None; k_scale, v_scale [1] or None; positions [T]; slot_mapping [T], where
    slot < 0 marks a padded token, for which nothing is written; caches [num_blocks, NUM_KV_HEADS,
    TOKENS_PER_BLOCK, HEAD_DIM]. HALF_BLOCK is the power of two from HEAD_DIM / 2.
    """
    wait_for_previous()
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    GROUP_BLOCK: tl.constexpr = triton.next_power_of_2(GROUP)
    HALF: tl.constexpr = HEAD_DIM // 2
    token = (tl.program_id(0) // NUM_KV_HEADS).to(tl.int64)
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    slot = tl.load(slot_mapping + token)
    if slot < 0:
        return

    half = tl.arange(0, HALF_BLOCK)
    half_mask = half < HALF
    row = qkv + token * ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM)
    member = tl.arange(0, GROUP_BLOCK)[:, None]
    q = row + (kv_head * GROUP + member) * HEAD_DIM + half[None, :]
    q_mask = (member < GROUP) & half_mask[None, :]
    k = row + (NUM_HEADS + kv_head) * HEAD_DIM + half[None, :]
    v = k + NUM_KV_HEADS * HEAD_DIM
    kv_mask = half_mask[None, :]
    # Every load is issued before the first value is needed.
    q_first = tl.load(q, mask=q_mask, other=0.0).to(tl.float32)
    q_second = tl.load(q + HALF, mask=q_mask, other=0.0).to(tl.float32)
    k_first = tl.load(k, mask=kv_mask, other=0.0).to(tl.float32)
    k_second = tl.load(k + HALF, mask=kv_mask, other=0.0).to(tl.float32)
    v_first = tl.load(v, mask=kv_mask, other=0.0).to(tl.float32)
    v_second = tl.load(v + HALF, mask=kv_mask, other=0.0).to(tl.float32)

    # The angle is rounded to float32, as in the reference implementations of the models.
    position = tl.load(positions + token).to(tl.float32)
    sin, cos = sin_cos(position * tl.load(inv_freq + half, mask=half_mask, other=0.0))
    sin = (sin * ROPE_SCALE)[None, :]
    cos = (cos * ROPE_SCALE)[None, :]

    q_first, q_second = normalise(q_first, q_second, q_norm, half, half_mask, EPSILON, HEAD_DIM)
    q_low = to_stored(q_first * cos - q_second * sin, qkv.dtype.element_ty)
    q_high = to_stored(q_second * cos + q_first * sin, qkv.dtype.element_ty)
    tl.store(q, q_low, mask=q_mask)
    tl.store(q + HALF, q_high, mask=q_mask)

    k_first, k_second = normalise(k_first, k_second, k_norm, half, half_mask, EPSILON, HEAD_DIM)
    k_low = k_first * cos - k_second * sin
    k_high = k_second * cos + k_first * sin
    if k_scale is not None:
        inverse = tl.div_rn(1.0, tl.load(k_scale))
        k_low *= inverse
        k_high *= inverse
    if v_scale is not None:
        inverse = tl.div_rn(1.0, tl.load(v_scale))
        v_first *= inverse
        v_second *= inverse
    block = slot // TOKENS_PER_BLOCK
    cache_row = (block * NUM_KV_HEADS + kv_head) * TOKENS_PER_BLOCK + slot % TOKENS_PER_BLOCK
    at = cache_row * HEAD_DIM + half[None, :]
    tl.store(k_cache + at, to_stored(k_low, k_cache.dtype.element_ty), mask=kv_mask)
    tl.store(k_cache + at + HALF, to_stored(k_high, k_cache.dtype.element_ty), mask=kv_mask)
    tl.store(v_cache + at, to_stored(v_first, v_cache.dtype.element_ty), mask=kv_mask)
    tl.store(v_cache + at + HALF, to_stored(v_second, v_cache.dtype.element_ty), mask=kv_mask)
