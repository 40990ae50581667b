# SPDX-License-Identifier: Apache-2.0
"""Between float32 and the two 16-bit float formats, in numpy alone.

numpy has no bfloat16: its values are held as their bit patterns in uint16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def float32_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to nearest, ties to even, and returns bit patterns.

    Infinities stay; what rounds beyond the largest finite bfloat16 becomes infinite; every NaN
    becomes a quiet NaN of its sign.

    Args:
        values: float32, any shape.

    Returns:
        uint16 of the same shape.
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # Half of the kept unit, less one when the kept part is already even.
    rounded = (bits >> np.uint32(16)) & np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits  # wraps only for NaNs, which are replaced below
    rounded >>= np.uint32(16)
    result = rounded.astype(np.uint16)
    is_nan = np.isnan(values)
    if is_nan.any():
        result[is_nan] = (bits[is_nan] >> np.uint32(16)).astype(np.uint16) | np.uint16(0x0040)
    return result


def bfloat16_to_float32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Returns the exact float32 values of bfloat16 bit patterns, in the same shape."""
    widened = bits.astype(np.uint32)
    widened <<= np.uint32(16)
    return widened.view(np.float32)


def round_to(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Rounds to nearest, ties to even, and returns what is stored.

    Args:
        values: float32, any shape.
        dtype: "f32", "bf16" or "f16". What rounds beyond its largest finite value becomes
            infinite.

    Returns:
        float32, uint16 bit patterns of bfloat16, or float16, of the same shape.
    """
    if dtype == "bf16":
        return float32_to_bfloat16(values)
    if dtype == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16)
    assert dtype == "f32", dtype
    return values


def widen(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns the exact float32 values of what `round_to` gave."""
    if stored.dtype == np.uint16:
        return bfloat16_to_float32(stored)
    return stored.astype(np.float32, copy=False)
