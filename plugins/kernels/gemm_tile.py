# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""What the GEMM kernels share: which tile a program computes, and the loop over K."""

from __future__ import annotations

import triton
import triton.language as tl

from .dequantise import high_int4_to, low_int4_to

INT4_GROUP = tl.constexpr(128)  # int4_wo: neighbours along K that share a scale
# Hopper's tensor cores add FP8 products with fewer bits than float32. Tiles of up to this many
# elements have the registers to move each block of K into float32 sums of their own.
EXACT_FP8_TILE = tl.constexpr(128 * 128)


@triton.jit
def tile_of(rows, BLOCKS_N: tl.constexpr, BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr):
    """Returns this program's (block of rows, block of columns).

    GROUP_M blocks of rows go by before the next block of columns: programs that run at the same
    time share blocks of both operands, which then come from L2.
    """
    program = tl.program_id(0)
    first = program // (GROUP_M * BLOCKS_N) * GROUP_M
    height = tl.minimum(tl.cdiv(rows, BLOCK_M) - first, GROUP_M)
    within = program % (GROUP_M * BLOCKS_N)
    return first + within % height, within // height


@triton.jit
def multiply(
    x, weight, scale, row, column, rows,
    K: tl.constexpr, WEIGHT: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Returns float32 [BLOCK_M, WIDTH]: rows of `x` times rows of `weight`, unscaled.

    int4_wo alone is scaled here, by group.

    Args:
        x: [rows, K].
        weight: [N, K]; int4_wo: uint8 [N, K / 2].
        scale: int4_wo: [N, K / 128].
        row: int32 [BLOCK_M], rows of x; those from `rows` on count as zero.
        column: int64 [WIDTH], rows of weight, all of which exist.
        rows: rows of x.
        K: depth.
        WEIGHT: "same", "int8_wo" or "int4_wo".
        BLOCK_M: rows of the tile.
        WIDTH: columns of the tile.
        BLOCK_K: depth of one step.
        INTERPRET: multiply in float32, for the interpreter.
    """
    if WEIGHT == "same":
        acc = _multiply_same(x, weight, row, column, rows, K, BLOCK_M, WIDTH, BLOCK_K, INTERPRET)
    elif WEIGHT == "int8_wo":
        acc = tl.trans(
            _multiply_int8(x, weight, row, column, rows, K, BLOCK_M, WIDTH, BLOCK_K, INTERPRET)
        )
    else:
        tl.static_assert(WEIGHT == "int4_wo", 'WEIGHT is "same", "int8_wo" or "int4_wo"')
        tl.static_assert(BLOCK_K == INT4_GROUP and K % BLOCK_K == 0, "a step is a group")
        acc = tl.trans(
            _multiply_int4(
                x, weight, scale, row, column, rows, K, BLOCK_M, WIDTH, BLOCK_K, INTERPRET
            )
        )
    return acc


@triton.jit
def _multiply_same(
    x, weight, row, column, rows,
    K: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Operands of one type; int8 is summed in int32."""
    kind: tl.constexpr = weight.dtype.element_ty
    sums: tl.constexpr = tl.int32 if kind == tl.int8 and not INTERPRET else tl.float32
    imprecise: tl.constexpr = (
        BLOCK_K if kind == tl.float8e4nv and BLOCK_M * WIDTH <= EXACT_FP8_TILE else None
    )
    depth = tl.arange(0, BLOCK_K)
    is_row = (row < rows)[:, None]
    x_at = x + row[:, None].to(tl.int64) * K + depth[None, :]
    w_at = weight + column[None, :] * K + depth[:, None]
    acc = tl.zeros((BLOCK_M, WIDTH), dtype=sums)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x_tile = tl.load(x_at, mask=is_row, other=0.0)
            w_tile = tl.load(w_at)
        else:
            in_k = depth < K - k
            x_tile = tl.load(x_at, mask=is_row & in_k[None, :], other=0.0)
            w_tile = tl.load(w_at, mask=in_k[:, None], other=0.0)
        if INTERPRET:
            x_tile = x_tile.to(tl.float32)
            w_tile = w_tile.to(tl.float32)
        acc = tl.dot(x_tile, w_tile, acc, max_num_imprecise_acc=imprecise, out_dtype=sums)
        x_at += BLOCK_K
        w_at += BLOCK_K
    return acc.to(tl.float32)


# Weights that are dequantised pass through registers. The left operand of a tensor core's
# instruction may stay there, the right one must go to shared memory: so weight * x^T.


@triton.jit
def _multiply_int8(
    x, weight, row, column, rows,
    K: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """int8 weights, transposed: [WIDTH, BLOCK_M]."""
    depth = tl.arange(0, BLOCK_K)
    is_row = (row < rows)[None, :]
    x_at = x + row[None, :].to(tl.int64) * K + depth[:, None]
    w_at = weight + column[:, None] * K + depth[None, :]
    acc = tl.zeros((WIDTH, BLOCK_M), dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x_tile = tl.load(x_at, mask=is_row, other=0.0)
            w_tile = tl.load(w_at)
        else:
            in_k = depth < K - k
            x_tile = tl.load(x_at, mask=is_row & in_k[:, None], other=0.0)
            w_tile = tl.load(w_at, mask=in_k[None, :], other=0)
        if INTERPRET:
            x_tile = x_tile.to(tl.float32)
        acc = tl.dot(w_tile.to(x_tile.dtype), x_tile, acc)
        x_at += BLOCK_K
        w_at += BLOCK_K
    return acc


@triton.jit
def _multiply_int4(
    x, weight, scale, row, column, rows,
    K: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """4-bit weights with a scale per group, transposed: [WIDTH, BLOCK_M]. A step is a group.

    A byte holds the weights of an even and an odd place of K, and so does a word of x: each half
    is multiplied on its own, and nothing has to be moved between threads to restore the order.
    """
    stored: tl.constexpr = x.dtype.element_ty
    dtype: tl.constexpr = tl.float32 if INTERPRET else stored
    pairs: tl.constexpr = GROUP // 2
    groups: tl.constexpr = K // GROUP
    is_row = (row < rows)[None, :]
    words = x.to(tl.pointer_type(tl.int32), bitcast=True)
    x_at = words + row[None, :].to(tl.int64) * (K // 2) + tl.arange(0, pairs)[:, None]
    w_at = weight + column[:, None] * (K // 2) + tl.arange(0, pairs)[None, :]
    scale_at = scale + column * groups
    acc = tl.zeros((WIDTH, BLOCK_M), dtype=tl.float32)
    group_scale = tl.load(scale_at)
    for group in range(groups):
        # The next group's, so that nothing waits for it.
        next_scale = tl.load(scale_at + tl.minimum(group + 1, groups - 1))
        word = tl.load(x_at, mask=is_row, other=0)
        packed = tl.load(w_at)
        x_even = word.to(tl.int16).to(stored, bitcast=True).to(dtype)
        x_odd = (word >> 16).to(tl.int16).to(stored, bitcast=True).to(dtype)
        sums = tl.dot(low_int4_to(packed, stored, INTERPRET), x_even)
        sums = tl.dot(high_int4_to(packed, stored, INTERPRET), x_odd, sums)
        # Exact sums of the group, then one product with its scale.
        acc += sums * group_scale.to(tl.float32)[:, None]
        group_scale = next_scale
        x_at += pairs
        w_at += pairs
    return acc
