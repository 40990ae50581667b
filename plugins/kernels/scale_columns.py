# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Multiplies each column by a factor of its own, and rounds or quantises the product."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .programmatic import wait_for_previous


@triton.jit
def scale_columns(x, factor, inverse, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Computes out = round(x * factor * inverse), clamped; grid: rows * cdiv(COLUMNS, BLOCK).

    Args:
        x: act [rows, COLUMNS].
        factor: float32 [COLUMNS].
        inverse: float32 [1], one over the scale of `out`; None where `out` is act.
        out: act, fp8e4nv or int8 [rows, COLUMNS].
        COLUMNS: width of a row.
        BLOCK: elements of a program, a power of two.
    """
    wait_for_previous()
    blocks: tl.constexpr = (COLUMNS + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = (program // blocks).to(tl.int64) * COLUMNS + column
    mask = column < COLUMNS
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    value *= tl.load(factor + column, mask=mask, other=0.0)
    if inverse is not None:
        value *= tl.load(inverse)
    tl.store(out + at, to_stored(value, out.dtype.element_ty), mask=mask)
