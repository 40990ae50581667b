# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Linear layer: x times a weight's transpose, with scale, bias and residual."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .gemm_tile import multiply, tile_of
from .programmatic import wait_for_previous

LARGEST_FINISHED = tl.constexpr(128 * 128)  # elements of a tile that is stored as a whole


@triton.jit
def finish(
    value, scale, bias, residual, y, row, first_column, rows,
    N: tl.constexpr, WEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Stores `value`, WIDTH columns of a tile, with scale, bias and residual.

    Other arguments as of `gemm`. A part of a tile may lie past the last column altogether.
    """
    column = first_column + tl.arange(0, WIDTH)
    existing = column if N % BLOCK_N == 0 else tl.minimum(column, N - 1)
    if scale is not None and WEIGHT != "int4_wo":
        value *= tl.load(scale + existing).to(tl.float32)[None, :]
    if bias is not None:
        value += tl.load(bias + existing)[None, :]
    at = row[:, None].to(tl.int64) * N + column[None, :]
    mask = (row < rows)[:, None] & (column < N)[None, :]
    if residual is not None:
        value += tl.load(residual + at, mask=mask, other=0.0)
    tl.store(y + at, to_stored(value, y.dtype.element_ty), mask=mask)


@triton.jit
def gemm(
    x, weight, scale, bias, residual, y, rows,
    N: tl.constexpr, K: tl.constexpr, WEIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Computes y = (x weight^T) * scale + bias + residual.

    Grid: cdiv(rows, BLOCK_M) * cdiv(N, BLOCK_N).

    Args:
        x: act, fp8e4nv or int8 [rows, K].
        weight: [N, K] of the type of x ("same") or int8 ("int8_wo"); "int4_wo": uint8 [N, K / 2],
            two a byte, the low half first.
        scale: per column; float32 [N] ("same", fp8e4nv and int8), act [N] ("int8_wo"), act
            [N, K / 128] ("int4_wo") or None.
        bias: float32 [N] or None.
        residual: float32 [rows, N] or None; not y itself.
        y: float32 or act [rows, N].
        rows: rows of x, at run time.
        N: columns of y.
        K: depth; a multiple of 16, with "int4_wo" of 128.
        WEIGHT: "same", "int8_wo" or "int4_wo".
        BLOCK_M: rows of a program's tile.
        BLOCK_N: columns of a program's tile.
        BLOCK_K: depth of one step; with "int4_wo" 128.
        GROUP_M: blocks of rows that share blocks of columns (see `tile_of`).
        INTERPRET: multiply in float32, for the interpreter.
    """
    wait_for_previous()
    block_m, block_n = tile_of(rows, (N + BLOCK_N - 1) // BLOCK_N, BLOCK_M, GROUP_M)
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    first_column = block_n * BLOCK_N
    column = first_column + tl.arange(0, BLOCK_N)
    # Columns past the last compute it again; nothing but the store is masked.
    existing = (column if N % BLOCK_N == 0 else tl.minimum(column, N - 1)).to(tl.int64)
    value = multiply(
        x, weight, scale, row, existing, rows,
        K, WEIGHT, BLOCK_M, BLOCK_N, BLOCK_K, INTERPRET,
    )  # fmt: skip
    if BLOCK_M * BLOCK_N > LARGEST_FINISHED:
        # One half after the other: sums and residual of a large tile do not fit the registers.
        half: tl.constexpr = BLOCK_N // 2
        left, right = tl.split(tl.permute(tl.reshape(value, (BLOCK_M, 2, half)), (0, 2, 1)))
        finish(left, scale, bias, residual, y, row, first_column, rows, N, WEIGHT, half, BLOCK_N)
        first_column += half
        finish(right, scale, bias, residual, y, row, first_column, rows, N, WEIGHT, half, BLOCK_N)
    else:
        finish(
            value, scale, bias, residual, y, row, first_column, rows, N, WEIGHT, BLOCK_N, BLOCK_N
        )
