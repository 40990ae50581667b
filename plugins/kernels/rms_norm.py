# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""RMSNorm of the residual stream, quantised for the GEMM that follows where that takes 8 bits."""

from __future__ import annotations

import triton
import triton.language as tl

from .convert import to_stored
from .programmatic import wait_for_previous


@triton.jit
def rms_norm(
    x, weight, inverse, out,
    EPSILON: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[row] = x[row] / sqrt(mean(x[row]^2) + EPSILON) * weight; grid: the rows.

    Args:
        x: float32 [rows, COLUMNS].
        weight: float32 [COLUMNS].
        inverse: float32 [1] where out is fp8e4nv or int8: one over its scale; else None.
        out: act, fp8e4nv or int8 [rows, COLUMNS].
        EPSILON: added to the mean square.
        COLUMNS: width of a row.
        BLOCK: the power of two that holds a row, which is read once.
    """
    wait_for_previous()
    tl.static_assert(BLOCK >= COLUMNS, "a block holds a row")
    i = tl.arange(0, BLOCK)
    mask = i < COLUMNS
    row = tl.program_id(0).to(tl.int64) * COLUMNS
    value = tl.load(x + row + i, mask=mask, other=0.0)
    gamma = tl.load(weight + i, mask=mask, other=0.0)
    factor = tl.rsqrt(tl.sum(value * value, axis=0) / COLUMNS + EPSILON)
    value *= factor * gamma
    if inverse is not None:
        value *= tl.load(inverse)
    tl.store(out + row + i, to_stored(value, out.dtype.element_ty), mask=mask)
