# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from enginery.quantization import (
    INT4_BLOCK,
    GroupedInt4Weight,
    QuantizationError,
    dequantize_grouped_int4,
    int4_codes,
    int4_scale,
    quantize_grouped_int4,
)

FloatArray = npt.NDArray[np.float32]


def random_weight(*shape: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def dequantized(weight: GroupedInt4Weight) -> FloatArray:
    """In the words of the format, element by element of the groups."""
    out = np.empty(weight.q.shape, np.float32)
    for n, row in enumerate(weight.q):
        for k, q in enumerate(row):
            code = int(weight.multipliers[n, k // 128]) * int(q)
            out[n, k] = np.float32(code) * weight.scale[n]
    return out


@pytest.mark.parametrize("shape", [(1, 1), (19, 99), (5, 128), (3, 129), (17, 1000)])
def test_codes_and_multipliers_are_in_range_and_mean_what_the_format_says(
    shape: tuple[int, int],
) -> None:
    weight = random_weight(*shape)
    got = quantize_grouped_int4(weight, "w")
    assert got.q.dtype == got.multipliers.dtype == np.int8 and got.scale.dtype == np.float32
    assert got.q.shape == shape and got.multipliers.shape == (shape[0], -(-shape[1] // 128))
    assert got.q.min() >= -8 and got.q.max() <= 7
    magnitudes = np.abs(got.multipliers.astype(int))
    assert magnitudes.min() >= 1 and magnitudes.max() <= 15
    codes = got.int8_codes()
    assert codes.dtype == np.int8 and np.abs(codes.astype(int)).max() <= 120
    assert np.array_equal(dequantize_grouped_int4(got), dequantized(got))
    assert np.allclose(got.scale, np.abs(weight).max(axis=1) / 120)


def test_no_code_next_to_the_chosen_one_is_nearer() -> None:
    """Rounding is to nearest, and what the range cuts off is at its end."""
    weight = random_weight(33, 700)
    got = quantize_grouped_int4(weight, "w")
    step = np.repeat(got.multipliers, 128, axis=1)[:, :700] * got.scale[:, None]
    error = np.abs(got.q * step - weight)
    for neighbour in (got.q - 1, got.q + 1):
        is_code = (neighbour >= -8) & (neighbour <= 7)
        nearer = np.abs(neighbour * step - weight) < error - 1e-6
        assert not (nearer & is_code).any()
    is_inside = (got.q > -8) & (got.q < 7)
    assert (error[is_inside] <= 0.5001 * np.abs(step)[is_inside]).all()


def test_every_group_has_the_best_of_the_multipliers_tried() -> None:
    weight = random_weight(20, 4 * 128, seed=3)
    got = quantize_grouped_int4(weight, "w")
    groups = weight.reshape(20, 4, 128).astype(np.float64)
    chosen = ((dequantize_grouped_int4(got).reshape(groups.shape) - groups) ** 2).sum(axis=-1)
    widest = np.ceil(np.abs(groups).max(axis=-1) / 8 / got.scale[:, None] - 1e-6)
    for less in range(4):
        magnitude = np.clip(widest - less, 1, 15)
        step = (np.sign(got.multipliers) * magnitude * got.scale[:, None])[:, :, None]
        tried = ((np.clip(np.rint(groups / step), -8, 7) * step - groups) ** 2).sum(axis=-1)
        assert (chosen <= tried * (1 + 1e-5)).all()


def test_the_largest_magnitude_of_a_group_is_on_the_side_of_minus_eight() -> None:
    weight = random_weight(8, 4 * 128, seed=1)
    got = quantize_grouped_int4(weight, "w")
    groups = weight.reshape(8, 4, 128)
    largest = np.abs(groups).argmax(axis=-1)[..., None]
    assert (np.take_along_axis(got.q.reshape(groups.shape), largest, -1) == -8).all()
    extremes = np.take_along_axis(groups, largest, -1)[..., 0]
    assert np.array_equal(np.sign(got.multipliers), -np.sign(extremes))


def relative_rms(got: FloatArray, expected: FloatArray) -> float:
    return float(np.sqrt(((got - expected) ** 2).sum() / (expected**2).sum()))


@pytest.mark.parametrize("kind", ["normal", "heavy_tailed", "outlier_channels"])
def test_the_error_is_below_that_of_a_float_scale_per_block(kind: str) -> None:
    """Sixteen codes and a search win more than whole multipliers lose (measured: 17 %)."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((64, 1024), dtype=np.float32)
    limit = 0.86
    if kind == "heavy_tailed":
        weight = rng.standard_t(4, weight.shape).astype(np.float32)
    elif kind == "outlier_channels":
        weight[:, rng.integers(0, 1024, 8)] *= 5
        limit = 1.0
    scale = int4_scale(weight, "w")
    codes = int4_codes(weight, scale).astype(np.float32)
    plain = codes * np.repeat(scale, INT4_BLOCK, axis=1)
    got = dequantize_grouped_int4(quantize_grouped_int4(weight, "w"))
    assert relative_rms(got, weight) < limit * relative_rms(plain, weight)


def test_what_the_codes_can_hold_comes_back() -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(-8, 8, (6, 3, 128)).astype(np.int8)
    q[:, :, 0] = -8
    multipliers = np.array([[15, -15, 15]] * 6, np.int8)
    scale = np.float32(2.0) ** np.arange(-3, 3, dtype=np.float32)
    made = GroupedInt4Weight(q.reshape(6, 384), multipliers, scale)
    weight = dequantize_grouped_int4(made)
    got = quantize_grouped_int4(weight, "w")
    assert np.array_equal(dequantize_grouped_int4(got), weight)
    assert np.array_equal(got.q, made.q) and np.array_equal(got.multipliers, multipliers)


@pytest.mark.parametrize("value", [0.75, -3.0, 1e-30, -1e30])
def test_constant_rows(value: float) -> None:
    weight = np.full((3, 200), value, np.float32)
    got = quantize_grouped_int4(weight, "w")
    assert (got.q == -8).all() and (np.abs(got.multipliers) == 15).all()
    assert np.allclose(dequantize_grouped_int4(got), weight, rtol=1e-6, atol=0)


def test_zeros() -> None:
    weight = random_weight(3, 384)
    weight[0] = 0
    weight[1, 128:256] = -0.0
    weight[2] *= np.float32(1e-44)  # too small for a normal scale
    got = quantize_grouped_int4(weight, "w")
    assert got.scale[0] == 1 and not got.q[0].any() and (got.multipliers[0] == 1).all()
    assert not got.q[1, 128:256].any() and got.multipliers[1, 1] == 1
    assert got.scale[2] == 1 and not got.q[2].any() and (abs(got.multipliers[2]) == 1).all()


def test_the_largest_float32_does_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    weight = np.array([[largest, -largest, largest / 2, 0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        got = quantize_grouped_int4(weight, "w")
    assert np.isfinite(got.scale).all() and np.isfinite(dequantize_grouped_int4(got)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name_and_row(bad: float) -> None:
    weight = np.ones((5, 130), np.float32)
    weight[3, 129] = bad
    with pytest.raises(QuantizationError, match=r"model\.w: row 3"):
        quantize_grouped_int4(weight, "model.w")


def test_rows_do_not_depend_on_those_beside_them() -> None:
    """So that pieces and shares of a weight have the codes of the whole."""
    weight = random_weight(700, 300, seed=4)  # more than is worked on at a time
    at_once = quantize_grouped_int4(weight, "w")
    for rows in (slice(0, 1), slice(1, 18), slice(255, 700)):
        part = quantize_grouped_int4(weight[rows], "w")
        assert np.array_equal(part.q, at_once.q[rows])
        assert np.array_equal(part.multipliers, at_once.multipliers[rows])
        assert np.array_equal(part.scale, at_once.scale[rows])


def test_columns_are_scaled_by_the_magnitude_that_is_given() -> None:
    weight = random_weight(9, 512, seed=5)
    at_once = quantize_grouped_int4(weight, "w")
    amax = np.abs(weight).max(axis=1)
    for begin, end in ((0, 128), (128, 512)):
        part = quantize_grouped_int4(weight[:, begin:end], "w", amax)
        assert np.array_equal(part.q, at_once.q[:, begin:end])
        assert np.array_equal(part.multipliers, at_once.multipliers[:, begin // 128 : end // 128])
        assert np.array_equal(part.scale, at_once.scale)
