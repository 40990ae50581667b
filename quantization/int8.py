# SPDX-License-Identifier: Apache-2.0
"""Symmetric INT8 weights with one scale per output channel: real = q * scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

INT8_MAX = 127


class QuantizationError(ValueError):
    """A tensor has values that cannot be quantised."""


class Int8Weight(NamedTuple):
    """Quantised rows of a weight `[N, K]`.

    Attributes:
        q: int8 `[N, K]`, in -127..127.
        scale: float32 `[N]`, above zero.
    """

    q: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def quantize_int8(weight: npt.NDArray[np.float32], name: str) -> Int8Weight:
    """Quantises each row of `weight` by its largest magnitude, rounding half to even.

    A row's scale is amax / 127, so -128 is never used and the range is symmetric. A row of zeros
    gets scale 1.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.

    Returns:
        The rows in INT8 and their scales.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    amax = np.maximum(weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0))
    # A NaN anywhere in a row makes its amax NaN, an infinity makes it infinite.
    if not np.isfinite(amax).all():
        row = int(np.flatnonzero(~np.isfinite(amax))[0])
        raise QuantizationError(
            f"{name}: row {row} holds values that are not finite; the checkpoint is damaged or "
            "overflowed when it was saved"
        )
    scale = amax / np.float32(INT8_MAX)
    # Subnormal rows would give a scale of zero; they are zeros for every purpose.
    scale[scale < np.finfo(np.float32).tiny] = 1
    q = weight / scale[:, np.newaxis]
    np.rint(q, out=q)
    np.clip(q, -INT8_MAX, INT8_MAX, out=q)  # amax / scale may exceed 127 by one rounding
    return Int8Weight(q.astype(np.int8), scale)


def dequantize_int8(weight: Int8Weight) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, K]`, the values that the quantised rows stand for."""
    return weight.q.astype(np.float32) * weight.scale[:, np.newaxis]
