# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Adds an all-reduced partial result to the residual stream."""

from __future__ import annotations

import triton
import triton.language as tl

from .programmatic import wait_for_previous


@triton.jit
def add(a, b, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Computes out = a + b, all float32 [rows, COLUMNS]; grid: rows * cdiv(COLUMNS, BLOCK).

    Args:
        a: float32 [rows, COLUMNS].
        b: float32 [rows, COLUMNS].
        out: float32 [rows, COLUMNS].
        COLUMNS: width of a row.
        BLOCK: elements of a program, a power of two.
    """
    wait_for_previous()
    blocks: tl.constexpr = (COLUMNS + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = (program // blocks).to(tl.int64) * COLUMNS + column
    mask = column < COLUMNS
    value = tl.load(a + at, mask=mask, other=0.0) + tl.load(b + at, mask=mask, other=0.0)
    tl.store(out + at, value, mask=mask)
