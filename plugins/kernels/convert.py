# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Rounding of float32 values to what tensors and caches store."""

from __future__ import annotations

import triton
import triton.language as tl

# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to the nearest even integer.
ROUND = tl.constexpr(12582912.0)
# Likewise 1.5 * 2^14 to the nearest multiple of 2^-9, the smallest number of fp8e4nv.
ROUND_SUBNORMAL = tl.constexpr(24576.0)
# The interpreter truncates to bfloat16, and to fp8e4nv rounds without carrying to the exponent.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def drop_bits(value, BITS: tl.constexpr):
    """Rounds finite float32 to nearest even at BITS fewer bits of mantissa."""
    bits = value.to(tl.int32, bitcast=True)
    half = (1 << (BITS - 1)) - 1
    rounded = (bits + half + ((bits >> BITS) & 1)) & -(1 << BITS)
    return tl.where(value == value, rounded.to(tl.float32, bitcast=True), value)


@triton.jit
def to_stored(value, dtype: tl.constexpr):
    """Rounds a float32 block to `dtype`, to nearest even, clamped to what i8 and fp8 reach.

    A NaN stays one in every floating-point type.
    """
    if dtype == tl.int8:
        rounded = (tl.clamp(value, -128.0, 127.0) + ROUND) - ROUND
        return rounded.to(tl.int8)
    elif dtype == tl.float8e4nv:
        # Rounding alone would make 464 < |value| a NaN.
        value = tl.clamp(value, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
        if INTERPRETED:
            subnormal = (value + ROUND_SUBNORMAL) - ROUND_SUBNORMAL
            value = tl.where(tl.abs(value) < 0.015625, subnormal, drop_bits(value, 20))
        return value.to(dtype)
    else:
        if INTERPRETED and dtype == tl.bfloat16:
            value = drop_bits(value, 16)
        return value.to(dtype)
