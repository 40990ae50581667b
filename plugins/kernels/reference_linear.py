# SPDX-License-Identifier: Apache-2.0
"""Float32 references, in numpy, of the kernels of a segment. Shapes as in the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
INT4_GROUP = 128
E4M3_MAX = 448.0


def e4m3(values: npt.ArrayLike) -> Float32Array:
    """Clamps to +-448 and rounds to the nearest E4M3 number, ties to even; NaN stays NaN."""
    clamped = np.clip(np.asarray(values, np.float64), -E4M3_MAX, E4M3_MAX)
    _, exponent = np.frexp(clamped)  # |x| = m * 2^e, m in [0.5, 1)
    # 3 bits of mantissa below the leading one; below 2^-6 the spacing stays at 2^-9.
    step = np.exp2(np.maximum(exponent - 1, -6) - 3.0)
    return np.asarray(np.rint(clamped / step) * step, np.float32)


def int8(values: npt.ArrayLike) -> Float32Array:
    """Clamps to [-128, 127] and rounds to the nearest integer, ties to even."""
    return np.rint(np.clip(np.asarray(values, np.float32), -128.0, 127.0))


QUANTISERS = {"fp8": e4m3, "int8": int8}


def _stored(value: Float32Array, inverse: npt.ArrayLike | None, kind: str | None) -> Float32Array:
    """`value` as real numbers of the output: unchanged, or the codes of `kind`."""
    if kind is None:
        return value
    assert inverse is not None
    return QUANTISERS[kind](value * np.asarray(inverse, np.float32).reshape(()))


def rms_norm(
    x: Float32Array,
    weight: Float32Array,
    inverse: npt.ArrayLike | None = None,
    *,
    epsilon: float,
    kind: str | None = None,
) -> Float32Array:
    """RMSNorm of each row; `kind` "fp8" or "int8" gives codes."""
    factor = 1.0 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(epsilon))
    return _stored(np.asarray(x * factor * weight, np.float32), inverse, kind)


def quantize(x: npt.ArrayLike, inverse: npt.ArrayLike, *, kind: str) -> Float32Array:
    """Codes of x * inverse."""
    return _stored(np.asarray(x, np.float32), inverse, kind)


def scale_columns(
    x: npt.ArrayLike,
    factor: npt.ArrayLike,
    inverse: npt.ArrayLike | None = None,
    *,
    kind: str | None = None,
) -> Float32Array:
    """X times a factor of each column; `kind` "fp8" or "int8" gives codes."""
    value = np.asarray(x, np.float32) * np.asarray(factor, np.float32)
    return _stored(value, inverse, kind)


def add(a: Float32Array, b: Float32Array) -> Float32Array:
    """Returns a + b."""
    return a + b


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """[N, K / 2], the low half of a byte first -> int8 [N, K] in -8..7."""
    signed = packed.view(np.int8)
    pairs = np.stack([np.left_shift(signed, 4) >> 4, signed >> 4], axis=-1)
    return np.asarray(pairs.reshape(packed.shape[0], -1), np.int8)


def real_weight(weight: Any, scale: Any, kind: str) -> Float32Array:
    """The weight's real numbers, float32 [N, K]; `kind` "same", "int8_wo" or "int4_wo"."""
    if kind == "int4_wo":
        codes = np.asarray(unpack_int4(weight), np.float32)
        return codes * np.repeat(np.asarray(scale, np.float32), INT4_GROUP, axis=1)
    real = np.asarray(weight, np.float32)
    return real if scale is None else real * np.asarray(scale, np.float32)[:, None]


def gemm(
    x: npt.ArrayLike,
    weight: Any,
    scale: Any = None,
    bias: Float32Array | None = None,
    residual: Float32Array | None = None,
    *,
    kind: str = "same",
) -> Float32Array:
    """(x weight^T) * scale + bias + residual, summed in float64."""
    product = np.asarray(x, np.float64) @ real_weight(weight, scale, kind).T.astype(np.float64)
    for term in (bias, residual):
        if term is not None:
            product = product + term
    return np.asarray(product, np.float32)


def gemm_swiglu(
    x: npt.ArrayLike,
    weight: Any,
    scale: Any = None,
    bias: Float32Array | None = None,
    inverse: npt.ArrayLike | None = None,
    *,
    kind: str = "same",
    out_kind: str | None = None,
) -> Float32Array:
    """silu(gate) * up of weight [2F, K], gate first; `out_kind` "fp8" or "int8" gives codes."""
    gate, up = np.split(gemm(x, weight, scale, bias, kind=kind).astype(np.float64), 2, axis=1)
    value = np.asarray(gate / (1.0 + np.exp(-gate)) * up, np.float32)
    return _stored(value, inverse, out_kind)
