# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Causal attention over the paged cache: prefill chunks, decodes and splits of decodes alike.

The query heads that share a key-value head are packed with the queries of a tile into the rows of
one matrix, so that each key and value is read once for the whole group. Online softmax
(FlashAttention) in powers of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .programmatic import wait_for_previous

LOG2_E = tl.constexpr(1.4426950408889634)
# What a masked score becomes: finite, so that a tile in which a row sees nothing makes no NaN. Its
# terms vanish as soon as the row sees a key, in this item or where `combine` meets another split.
MASKED_SCORE = tl.constexpr(-1e30)


@triton.jit
def attend(
    acc, row_max, row_sum, q, begin, end, row_position, scale, k_head, v_head, table,
    IS_MASKED: tl.constexpr, SLIDING_WINDOW: tl.constexpr, NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr, TOKENS_PER_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Adds keys [begin, end) to the online softmax of a tile, BLOCK_N at a time.

    Without IS_MASKED every row sees every key and end - begin is a multiple of BLOCK_N. k_head and
    v_head point at the head in block 0, table at the sequence's block table.
    """
    dim = tl.arange(0, HEAD_BLOCK)
    key = begin + tl.arange(0, BLOCK_N)
    # Loaded a tile ahead and carried: the compiler's software pipeline would otherwise spend half
    # its stages on the table, and these loads hit L1.
    block = tl.load(table + key // TOKENS_PER_BLOCK, mask=key < end, other=0)
    for tile in tl.range(begin, end, BLOCK_N):
        key = tile + tl.arange(0, BLOCK_N)
        in_block = key % TOKENS_PER_BLOCK
        # Blocks times their size pass 2^31: 64-bit from here on.
        at = block.to(tl.int64) * (NUM_KV_HEADS * TOKENS_PER_BLOCK * HEAD_DIM) + in_block * HEAD_DIM
        at = at[:, None] + dim[None, :]  # [BLOCK_N, HEAD_BLOCK]
        if IS_MASKED:
            mask = (key < end)[:, None] & (dim < HEAD_DIM)[None, :]
            k = tl.load(k_head + at, mask=mask, other=0.0)
            # Zero, or a NaN left in the cache by another request would pass a weight of zero.
            v = tl.load(v_head + at, mask=mask, other=0.0)
        elif HEAD_DIM == HEAD_BLOCK:
            k = tl.load(k_head + at)
            v = tl.load(v_head + at)
        else:
            k = tl.load(k_head + at, mask=(dim < HEAD_DIM)[None, :], other=0.0)
            v = tl.load(v_head + at, mask=(dim < HEAD_DIM)[None, :], other=0.0)
        following = key + BLOCK_N
        block = tl.load(table + following // TOKENS_PER_BLOCK, mask=following < end, other=0)
        k = k.to(q.dtype)
        score = tl.dot(q, tl.trans(k))  # [BLOCK_M, BLOCK_N]
        if IS_MASKED:
            is_seen = (key[None, :] <= row_position[:, None]) & (key < end)[None, :]
            if SLIDING_WINDOW > 0:
                is_seen = is_seen & (key[None, :] > row_position[:, None] - SLIDING_WINDOW)
            score = tl.where(is_seen, score, MASKED_SCORE)
        new_max = tl.maximum(row_max, tl.max(score, axis=1) * scale)
        weight = tl.exp2(score * scale - new_max[:, None])
        correction = tl.exp2(row_max - new_max)
        row_sum = row_sum * correction + tl.sum(weight, axis=1)
        acc = acc * correction[:, None]
        acc = tl.dot(weight.to(q.dtype), v.to(q.dtype), acc)
        row_max = new_max
    return acc, row_max, row_sum


@triton.jit
def paged_attention(
    qkv, k_cache, v_cache, k_scale, v_scale, work, block_tables, context_lens, positions,
    partial, partial_stats, out, table_width,
    SCALE: tl.constexpr, SLIDING_WINDOW: tl.constexpr, NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    GROUP_BLOCK: tl.constexpr, TOKENS_PER_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Attention of each work item's queries over its range of keys.

    Grid: num_items * NUM_KV_HEADS. work [items, 8]: sequence, first_query (packed token),
    num_query (at most BLOCK_M / GROUP_BLOCK; 0: padding), kv_begin (a multiple of BLOCK_N), kv_end
    (clamped to the context), partial_index, 0, 0. An item with partial_index -1 holds all keys of
    its queries and writes out [T, NUM_HEADS HEAD_DIM]; another has one query and writes the
    unnormalised sum to partial [index, NUM_HEADS, HEAD_DIM] and to partial_stats [index, NUM_HEADS,
    2] the largest score, times log2(e), and the sum of 2^(score - largest); both are None where no
    item is such.

    qkv as `kv_append` leaves it, caches as it writes them; block_tables [sequences, table_width];
    context_lens [sequences]; positions [T]. GROUP_BLOCK is the power of two from NUM_HEADS /
    NUM_KV_HEADS, HEAD_BLOCK that from HEAD_DIM.
    """
    wait_for_previous()
    GROUP: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    item = work + (tl.program_id(0) // NUM_KV_HEADS) * 8
    kv_head = tl.program_id(0) % NUM_KV_HEADS
    num_query = tl.load(item + 2)
    if num_query == 0:
        return
    sequence = tl.load(item)
    first_query = tl.load(item + 1)
    kv_begin = tl.load(item + 3)
    kv_end = tl.load(item + 4)
    partial_index = tl.load(item + 5)

    row = tl.arange(0, BLOCK_M)
    query = row // GROUP_BLOCK
    member = row % GROUP_BLOCK
    token = (first_query + query).to(tl.int64)
    head = kv_head * GROUP + member
    row_mask = (query < num_query) & (member < GROUP)
    dim = tl.arange(0, HEAD_BLOCK)
    tile_mask = row_mask[:, None] & (dim < HEAD_DIM)[None, :]
    q_row = token * ((NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM) + head * HEAD_DIM
    q = tl.load(qkv + q_row[:, None] + dim[None, :], mask=tile_mask, other=0.0)
    scale = SCALE * LOG2_E
    if k_cache.dtype.element_ty == tl.float8e4nv and qkv.dtype.element_ty == tl.bfloat16:
        # Products in float16, to which fp8 converts exactly in one instruction; to bfloat16 it
        # takes four, and reading the cache is then bound by them (H100, 64 x 4096 tokens: 194
        # against 210 us). q stays exact, and a power of two keeps it well inside float16.
        q = (q.to(tl.float32) * (1 / 16)).to(tl.float16)
        scale = scale * 16
    if INTERPRET:
        q = q.to(tl.float32)  # the interpreter's product of bfloat16 is not one

    first_position = tl.load(positions + first_query)
    last_position = first_position + num_query - 1
    row_position = first_position + query
    end = tl.minimum(tl.minimum(kv_end, tl.load(context_lens + sequence)), last_position + 1)
    begin = kv_begin
    if SLIDING_WINDOW > 0:
        # Whole tiles, at absolute places: what a query sees is summed in an order of its own.
        oldest = tl.maximum(first_position - SLIDING_WINDOW + 1, 0)
        begin = tl.maximum(begin, oldest // BLOCK_N * BLOCK_N)
        seen_by_all = begin
    else:
        visible = tl.maximum(tl.minimum(first_position + 1, end) - begin, 0)
        seen_by_all = begin + visible // BLOCK_N * BLOCK_N

    if k_scale is not None:
        scale = tl.load(k_scale) * scale
    k_head = k_cache + kv_head * (TOKENS_PER_BLOCK * HEAD_DIM)
    v_head = v_cache + kv_head * (TOKENS_PER_BLOCK * HEAD_DIM)
    table = block_tables + sequence.to(tl.int64) * table_width
    acc = tl.zeros((BLOCK_M, HEAD_BLOCK), tl.float32)
    row_max = tl.full((BLOCK_M,), MASKED_SCORE, tl.float32)
    row_sum = tl.zeros((BLOCK_M,), tl.float32)
    if SLIDING_WINDOW == 0:
        acc, row_max, row_sum = attend(
            acc, row_max, row_sum, q, begin, seen_by_all, row_position, scale, k_head, v_head,
            table, False, SLIDING_WINDOW, NUM_KV_HEADS, HEAD_DIM, HEAD_BLOCK, TOKENS_PER_BLOCK,
            BLOCK_N,
        )  # fmt: skip
    acc, row_max, row_sum = attend(
        acc, row_max, row_sum, q, seen_by_all, end, row_position, scale, k_head, v_head,
        table, True, SLIDING_WINDOW, NUM_KV_HEADS, HEAD_DIM, HEAD_BLOCK, TOKENS_PER_BLOCK,
        BLOCK_N,
    )  # fmt: skip
    if v_scale is not None:
        acc = acc * tl.load(v_scale)

    at = ((token * NUM_HEADS + head) * HEAD_DIM)[:, None] + dim[None, :]
    if partial is None:  # noqa: SIM114 (decided when it is compiled, the other when it runs)
        tl.store(out + at, to_stored(acc / row_sum[:, None], out.dtype.element_ty), mask=tile_mask)
    elif partial_index < 0:
        tl.store(out + at, to_stored(acc / row_sum[:, None], out.dtype.element_ty), mask=tile_mask)
    else:
        index = partial_index.to(tl.int64) * NUM_HEADS + head
        tl.store(partial + index[:, None] * HEAD_DIM + dim[None, :], acc, mask=tile_mask)
        tl.store(partial_stats + index * 2, row_max, mask=row_mask)
        tl.store(partial_stats + index * 2 + 1, row_sum, mask=row_mask)
