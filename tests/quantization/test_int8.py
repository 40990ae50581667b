# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.quantization import QuantizationError, dequantize_int8, quantize_int8


@pytest.mark.parametrize("shape", [(1, 1), (19, 99), (37, 256), (3, 1023)])
def test_error_is_at_most_half_a_step_and_the_range_is_symmetric(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    quantized = quantize_int8(weight, "w")
    assert quantized.q.dtype == np.int8 and quantized.scale.dtype == np.float32
    assert np.abs(quantized.q.astype(int)).max(axis=1).tolist() == [127] * shape[0]
    step = quantized.scale[:, None]
    assert (np.abs(dequantize_int8(quantized) - weight) <= 0.5001 * step).all()
    assert np.allclose(quantized.scale, np.abs(weight).max(axis=1) / 127)


def test_rounds_half_to_even() -> None:
    weight = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]], np.float32)
    assert quantize_int8(weight, "w").q.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_a_row_of_zeros_has_scale_one() -> None:
    weight = np.array([[0.0, -0.0], [1.0, 0.5]], np.float32)
    quantized = quantize_int8(weight, "w")
    assert quantized.scale[0] == 1 and quantized.q[0].tolist() == [0, 0]
    assert quantized.q[1].tolist() == [127, 64]


def test_a_row_too_small_for_a_normal_scale_becomes_zeros() -> None:
    quantized = quantize_int8(np.array([[1e-44, -1e-45]], np.float32), "w")
    assert quantized.scale.tolist() == [1.0] and not quantized.q.any()


def test_the_largest_float32_does_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    quantized = quantize_int8(np.array([[largest, -largest, 0]], np.float32), "w")
    assert quantized.q.tolist() == [[127, -127, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name_and_row(bad: float) -> None:
    weight = np.ones((5, 7), np.float32)
    weight[3, 6] = bad
    with pytest.raises(QuantizationError, match=r"model\.w: row 3"):
        quantize_int8(weight, "model.w")
