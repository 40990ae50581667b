# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-untyped-decorators
"""Rounding of float32 values to what tensors and caches store."""

from __future__ import annotations

import triton
import triton.language as tl

# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to the nearest even integer.
ROUND = tl.constexpr(12582912.0)


@triton.jit
def to_stored(value, dtype: tl.constexpr):
    """Rounds a float32 block to `dtype`, to nearest even, clamped to what i8 and fp8 reach.

    A NaN stays one in every floating-point type.
    """
    if dtype == tl.int8:
        rounded = (tl.clamp(value, -128.0, 127.0) + ROUND) - ROUND
        return rounded.to(tl.int8)
    elif dtype == tl.float8e4nv:
        # Rounding alone would make 448 < |value| a NaN.
        inside = tl.clamp(value, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        return inside.to(tl.float8e4nv)
    else:
        return value.to(dtype)
