# SPDX-License-Identifier: Apache-2.0
"""INT4 codes of other libraries under two levels of scales."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from enginery.quantization import (
    dequantize_grouped_int4,
    quantize_grouped_int4,
    regroup_int4,
    two_levels,
)
from tests.support.quantized_weights import Groups, round_groups

FloatArray = npt.NDArray[np.float32]
MAX_ADDED_ERROR = {128: 0.03, 64: 0.05, 32: 0.08}


def rounded(size: int, *, symmetric: bool, seed: int = 0) -> tuple[FloatArray, Groups]:
    weight = np.random.default_rng(seed).standard_normal((64, 768), dtype=np.float32)
    return weight, round_groups(weight, size, 4, symmetric=symmetric)


def regrouped(groups: Groups) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Codes from -8 to 7, and what they stand for with their zero points."""
    zero_point = (groups.zero_point - 8).astype(np.int8)
    levels = two_levels(groups.scale, np.abs(groups.scale).max(axis=1))
    codes = (groups.codes - 8).astype(np.int8)
    got = regroup_int4(codes, groups.scale, zero_point, levels)
    assert np.array_equal(got.multipliers, levels.multipliers)
    zeros = np.repeat(zero_point * levels.group_scale(), got.group_size, axis=1)
    return got.q, dequantize_grouped_int4(got) - zeros


def rms(error: FloatArray) -> float:
    return float(np.sqrt((error**2).mean()))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [128, 64, 32])
def test_less_is_lost_than_by_quantising_anew(size: int, symmetric: bool) -> None:
    """Measured: 2.0 % and 2.4 % (128), 2.8 % and 3.5 % (64), 4.3 % and 5.3 % (32)."""
    weight, groups = rounded(size, symmetric=symmetric)
    codes, values = regrouped(groups)
    exact = groups.values()
    anew = dequantize_grouped_int4(quantize_grouped_int4(exact, "w", group_size=size))
    added = rms(values - weight) / rms(exact - weight) - 1
    assert added < MAX_ADDED_ERROR[size]
    assert added < rms(anew - weight) / rms(exact - weight) - 1
    assert (codes != groups.codes - 8).mean() < 1e-3


def test_scales_that_are_multiples_change_nothing() -> None:
    _, groups = rounded(32, symmetric=False)
    rng = np.random.default_rng(3)
    multiples = rng.integers(1, 16, groups.scale.shape) * rng.choice([-1, 1], groups.scale.shape)
    multiples[:, 5] = 15
    groups = groups._replace(scale=(multiples / np.float32(64)).astype(np.float32))
    codes, values = regrouped(groups)
    assert np.array_equal(codes, groups.codes - 8)
    np.testing.assert_allclose(values, groups.values(), rtol=1e-6, atol=1e-6)


def test_groups_of_small_scales_are_rounded_to_the_least_step() -> None:
    """A code whose step is far below the least that there is moves with its value."""
    _, groups = rounded(32, symmetric=False, seed=4)
    scale = groups.scale.copy()
    scale[:, 1::2] /= 100
    groups = groups._replace(scale=scale)
    _, values = regrouped(groups)
    step = scale.max(axis=1) / 15
    error = np.abs(values - groups.values()).reshape(64, 24, 32)[:, 1::2].max(axis=(1, 2))
    assert (error <= 0.501 * step).all()


def test_scales_of_zero_stay_zeros() -> None:
    _, groups = rounded(128, symmetric=False)
    scale = groups.scale.copy()
    scale[3] = 0
    scale[4, 2] = 0
    _, values = regrouped(groups._replace(scale=scale))
    assert not values[3].any() and not values[4, 256:384].any()
    assert np.isfinite(values).all() and values[4, :256].any()
