# SPDX-License-Identifier: Apache-2.0
"""Symmetric INT8 weights with one scale per output channel: real = q * scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.quantization.scaling import row_scale

INT8_MAX = 127


class Int8Weight(NamedTuple):
    """Quantised rows of a weight `[N, K]`.

    Attributes:
        q: int8 `[N, K]`, in -127..127.
        scale: float32 `[N]`, above zero.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def quantize_int8(
    weight: npt.NDArray[np.float32], name: str, amax: npt.NDArray[np.float32] | None = None
) -> Int8Weight:
    """Quantises each row of `weight` by its largest magnitude, rounding half to even.

    A row's scale is amax / 127, so -128 is never used and the range is symmetric. A row of zeros
    gets scale 1.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.
        amax: float32 `[N]`, the magnitude to scale each row by where `weight` holds only some of
            the columns; None takes the row's own.

    Returns:
        The rows in INT8 and their scales.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    scale = row_scale(weight, name, INT8_MAX, amax)
    return Int8Weight(int8_codes(weight, scale), scale)


def int8_codes(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.int8]:
    """Returns int8 `[N, K]`: weight / scale, rounded half to even, clamped to -127..127.

    Args:
        weight: finite float32 `[N, K]`.
        scale: float32 `[N]`, above zero.
    """
    q = weight / scale[:, np.newaxis]
    np.rint(q, out=q)
    np.clip(q, -INT8_MAX, INT8_MAX, out=q)  # amax / scale may exceed 127 by a rounding
    return q.astype(np.int8)


def dequantize_int8(weight: Int8Weight) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, K]`, the values that the quantised rows stand for."""
    return weight.q.astype(np.float32) * weight.scale[:, np.newaxis]
