# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Sine and cosine of rotary angles.

The language's own `tl.sin` and `tl.cos` reduce large arguments through a table in local memory.
Angles here are below 2^31 and not negative, for which one float64 multiply-add is exact enough:
error 1e-7 at position 2^20, as at 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

TWO_OVER_PI = tl.constexpr(0.6366197723675814)
HALF_PI = tl.constexpr(1.5707963267948966)


@triton.jit
def sin_cos(angle):
    """Returns (sin, cos) of float32 angles in [0, 2^31), in radians."""
    wide = angle.to(tl.float64)
    turns = tl.floor(wide * TWO_OVER_PI + 0.5)
    # In [-pi/4, pi/4], where the Taylor series below is correct to the last bit of a float32.
    x = (wide - turns * HALF_PI).to(tl.float32)
    quadrant = turns.to(tl.int64).to(tl.int32) & 3
    y = x * x
    sine = x + x * y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880))))
    cosine = 1 + y * (-1 / 2 + y * (1 / 24 + y * (-1 / 720 + y * (1 / 40320 + y * (-1 / 3628800)))))
    is_odd = (quadrant & 1) != 0
    sin = tl.where(is_odd, cosine, sine)
    cos = tl.where(is_odd, sine, cosine)
    sin = tl.where(quadrant >= 2, -sin, sin)
    cos = tl.where((quadrant == 1) | (quadrant == 2), -cos, cos)
    return sin, cos
