# SPDX-License-Identifier: Apache-2.0
"""E4M3 against ml_dtypes, which rounds in C++."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from enginery.quantization import (
    QuantizationError,
    dequantize_fp8,
    e4m3_to_float32,
    float32_to_e4m3,
    quantize_fp8,
)

ALL_CODES = np.arange(256, dtype=np.uint8)
FloatArray = npt.NDArray[np.float32]


def reference(values: FloatArray) -> npt.NDArray[np.uint8]:
    clamped = np.clip(values, -448, 448)
    return clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def test_every_code_has_the_value_of_the_format() -> None:
    expected = ALL_CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(e4m3_to_float32(ALL_CODES), expected)


def test_every_code_survives_the_way_there_and_back() -> None:
    codes = float32_to_e4m3(e4m3_to_float32(ALL_CODES))
    is_nan = (ALL_CODES & 0x7F) == 0x7F
    assert np.array_equal(codes[~is_nan], ALL_CODES[~is_nan])  # both zeros keep their signs
    assert np.array_equal(codes[is_nan] & 0x7F, [0x7F, 0x7F])


def test_halfway_between_codes_rounds_to_even_and_beside_it_to_the_nearest() -> None:
    positive = e4m3_to_float32(ALL_CODES[:0x7F])
    halfway = (positive[1:] + positive[:-1]) / 2
    below, above = np.nextafter(halfway, np.float32(0)), np.nextafter(halfway, np.float32(1e9))
    codes = ALL_CODES[:0x7F]
    assert np.array_equal(float32_to_e4m3(below), codes[:-1])
    assert np.array_equal(float32_to_e4m3(above), codes[1:])
    even = np.where(codes[:-1] % 2 == 0, codes[:-1], codes[1:])
    assert np.array_equal(float32_to_e4m3(halfway), even)
    assert np.array_equal(float32_to_e4m3(-halfway), even | 0x80)


def test_random_values_of_every_magnitude() -> None:
    bits = np.random.default_rng(3).integers(0, 1 << 32, 300_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    assert np.array_equal(float32_to_e4m3(values), reference(values))
    near = np.random.default_rng(4).standard_normal((7, 999), dtype=np.float32) * np.float32(100)
    assert np.array_equal(float32_to_e4m3(near), reference(near))


def test_what_is_beyond_448_is_clamped() -> None:
    values = np.array([448, 449, 480, 1e30, np.inf, -448.1, -np.inf], np.float32)
    assert list(float32_to_e4m3(values)) == [0x7E] * 5 + [0xFE] * 2


def test_rows_are_scaled_by_their_largest_magnitude() -> None:
    weight = np.random.default_rng(1).standard_normal((9, 33), dtype=np.float32)
    weight[4] = 0
    quantized = quantize_fp8(weight, "w")
    magnitudes = np.abs(e4m3_to_float32(quantized.q)).max(axis=1)
    assert np.array_equal(magnitudes, [448] * 4 + [0] + [448] * 4)
    assert quantized.scale[4] == 1
    # Half a unit of 3 mantissa bits, and half the spacing of the subnormal codes.
    bound = np.maximum(np.abs(weight) / 16, quantized.scale[:, None] * 2.0**-10) * 1.000001
    assert np.all(np.abs(dequantize_fp8(quantized) - weight) <= bound)


def test_a_part_of_the_columns_is_scaled_as_the_whole() -> None:
    weight = np.random.default_rng(2).standard_normal((5, 40), dtype=np.float32)
    whole = quantize_fp8(weight, "w")
    part = quantize_fp8(weight[:, 16:], "w", np.abs(weight).max(axis=1))
    assert np.array_equal(part.q, whole.q[:, 16:])
    assert np.array_equal(part.scale, whole.scale)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    weight = np.ones((3, 4), np.float32)
    weight[2, 1] = bad
    with pytest.raises(QuantizationError, match="w: row 2 holds values that are not finite"):
        quantize_fp8(weight, "w")
