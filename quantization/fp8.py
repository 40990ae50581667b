# SPDX-License-Identifier: Apache-2.0
"""FP8 E4M3 in the variant without infinities (E4M3FN, OCP 8-bit Floating Point Specification 1.0).

Codes are bit patterns in uint8: sign, 4 exponent bits of bias 7, 3 mantissa bits. The largest
value is 448 (0x7E), the smallest above zero 2^-9; 0x7F and 0xFF are NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.quantization.scaling import row_scale

E4M3_MAX = 448.0
_NAN = 0x7F
_MIN_NORMAL = 2.0**-6
_CHUNK = 1 << 14  # values worked on at a time, so that what is in between stays in the cache
_SUBNORMALS_PER_ONE = 2.0**9


class Fp8Weight(NamedTuple):
    """Quantised rows of a weight `[N, K]`: real = value of the code * scale.

    Attributes:
        q: E4M3 bit patterns, uint8 `[N, K]`.
        scale: float32 `[N]`, above zero.
    """

    q: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.float32]


def float32_to_e4m3(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Clamps to +-448, then rounds to nearest, ties to even; a NaN becomes one.

    Args:
        values: float32, any shape.

    Returns:
        uint8 bit patterns of the same shape.
    """
    flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
    codes = np.empty(flat.size, np.uint8)
    for begin in range(0, flat.size, _CHUNK):
        codes[begin : begin + _CHUNK] = _round(flat[begin : begin + _CHUNK])
    return codes.reshape(values.shape)


def _round(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """The codes of a few values, each in 32 bits."""
    bits = values.view(np.uint32)
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    magnitude = np.abs(values)
    np.minimum(magnitude, np.float32(E4M3_MAX), out=magnitude)
    is_small = magnitude < np.float32(_MIN_NORMAL)
    # Below the normal numbers codes are multiples of 2^-9, and 2^14 is where that is the last
    # place of a float32: the sum is rounded to it, and its last bits are the code. The first
    # normal number continues them.
    subnormal = (magnitude + np.float32(2.0**14)).view(np.uint32) & np.uint32(0xF)
    # Half of the kept unit, less one when the kept part is already even; then the bias 127 -> 7.
    bits = magnitude.view(np.uint32)
    codes = bits >> np.uint32(20)
    codes &= np.uint32(1)
    codes += bits
    codes += np.uint32(0x7FFFF)
    codes >>= np.uint32(20)
    codes -= np.uint32((127 - 7) << 3)
    np.copyto(codes, subnormal, where=is_small)
    np.copyto(codes, np.uint32(_NAN), where=np.isnan(values))
    codes |= sign
    return codes


def _decoded() -> npt.NDArray[np.float32]:
    table = np.empty(256, np.float32)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, mantissa = (code >> 3) & 15, code & 7
        if (exponent, mantissa) == (15, 7):
            table[code] = np.nan
        elif exponent == 0:
            table[code] = sign * mantissa / _SUBNORMALS_PER_ONE
        else:
            table[code] = sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return table


_VALUES = _decoded()


def e4m3_to_float32(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Returns the exact values of E4M3 bit patterns, in the same shape."""
    return _VALUES[codes]


def quantize_fp8(
    weight: npt.NDArray[np.float32], name: str, amax: npt.NDArray[np.float32] | None = None
) -> Fp8Weight:
    """Quantises each row of `weight` so that its largest magnitude becomes 448.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.
        amax: float32 `[N]`, the magnitude to scale each row by where `weight` holds only some of
            the columns; None takes the row's own.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    scale = row_scale(weight, name, E4M3_MAX, amax)
    return Fp8Weight(float32_to_e4m3(weight / scale[:, np.newaxis]), scale)


def dequantize_fp8(weight: Fp8Weight) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, K]`, the values that the quantised rows stand for."""
    return e4m3_to_float32(weight.q) * weight.scale[:, np.newaxis]
