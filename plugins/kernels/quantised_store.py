# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-untyped-decorators
"""Stores float32 blocks as what the output pointer points to."""

from __future__ import annotations

import triton
import triton.language as tl

# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to the nearest even integer.
ROUND = tl.constexpr(12582912.0)
FP8_MAX = tl.constexpr(448.0)


@triton.jit
def store_as(pointers, value, inverse, mask):
    """Stores `value`: fp8 and int8 as `value * inverse` rounded to nearest even, else converted.

    Args:
        pointers: a block of pointers to float32, act, fp8e4nv or int8.
        value: float32, of the pointers' shape.
        inverse: float32 [1], one over the tensor's scale; None unless the output is quantised.
        mask: what is stored.
    """
    kind: tl.constexpr = pointers.dtype.element_ty
    if kind == tl.float8e4nv:
        # A NaN stays one, so that the sampler sees it; the clamp's default would hide it.
        scaled = tl.clamp(value * tl.load(inverse), -FP8_MAX, FP8_MAX, tl.PropagateNan.ALL)
        tl.store(pointers, scaled.to(tl.float8e4nv), mask=mask)
    elif kind == tl.int8:
        scaled = tl.clamp(value * tl.load(inverse), -128.0, 127.0)
        tl.store(pointers, ((scaled + ROUND) - ROUND).to(tl.int8), mask=mask)
    else:
        tl.static_assert(inverse is None, "only fp8 and int8 have a scale")
        tl.store(pointers, value.to(kind), mask=mask)
