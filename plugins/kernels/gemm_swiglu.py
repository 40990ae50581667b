# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Gate and up projections with SwiGLU in one kernel: what they give never goes to memory."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .gemm_tile import multiply, tile_of
from .programmatic import wait_for_previous


@triton.jit
def gemm_swiglu(
    x, weight, scale, bias, inverse, y, rows,
    F: tl.constexpr, K: tl.constexpr, WEIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """y[r, f] = silu(gate[r, f]) * up[r, f]; grid: cdiv(rows, BLOCK_M) * cdiv(F, BLOCK_N).

    Args:
        x: act, fp8e4nv or int8 [rows, K].
        weight: [2F, K], the rows of gate first; types as in `gemm`.
        scale: of 2F columns, as in `gemm`.
        bias: float32 [2F] or None.
        inverse: float32 [1] where y is fp8e4nv or int8: one over its scale; else None.
        y: act, fp8e4nv or int8 [rows, F].
        rows: rows of x, at run time.
        F: columns of y.
        K: depth, as in `gemm`.
        WEIGHT: "same", "int8_wo" or "int4_wo".
        BLOCK_M: rows of a program's tile.
        BLOCK_N: columns of y of a program's tile, which multiplies with twice as many.
        BLOCK_K: depth of one step; with "int4_wo" 128.
        GROUP_M: blocks of rows that share blocks of columns.
        INTERPRET: multiply in float32, for the interpreter.
    """
    wait_for_previous()
    WIDTH: tl.constexpr = 2 * BLOCK_N
    block_m, block_n = tile_of(rows, (F + BLOCK_N - 1) // BLOCK_N, BLOCK_M, GROUP_M)
    row = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    # Gate and up alternate. A thread holds pairs of neighbouring columns of a tensor core's
    # result, so that the two meet in a register.
    j = tl.arange(0, WIDTH)
    pair = block_n * BLOCK_N + j // 2
    existing = ((pair if F % BLOCK_N == 0 else tl.minimum(pair, F - 1)) + (j % 2) * F).to(tl.int64)
    value = multiply(
        x, weight, scale, row, existing, rows,
        K, WEIGHT, BLOCK_M, WIDTH, BLOCK_K, INTERPRET,
    )  # fmt: skip
    if scale is not None and WEIGHT != "int4_wo":
        value *= tl.load(scale + existing).to(tl.float32)[None, :]
    if bias is not None:
        value += tl.load(bias + existing)[None, :]
    gate, up = tl.split(value.reshape(BLOCK_M, BLOCK_N, 2))
    column = block_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (row < rows)[:, None] & (column < F)[None, :]
    at = row[:, None].to(tl.int64) * F + column[None, :]
    value = gate * tl.sigmoid(gate) * up
    if inverse is not None:
        value *= tl.load(inverse)
    tl.store(y + at, to_stored(value, y.dtype.element_ty), mask=mask)
