# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from enginery.quantization import (
    INT4_BLOCK,
    QuantizationError,
    int4_codes,
    int4_scale,
    pack_int4,
    unpack_int4,
)


def test_the_first_code_is_in_the_low_nibble() -> None:
    codes = np.array([[1, -1, 7, -7], [0, -8, 3, 2]], np.int8)
    assert pack_int4(codes).tolist() == [[0xF1, 0x97], [0x80, 0x23]]


@given(hnp.arrays(np.int8, st.tuples(st.integers(1, 5), st.just(6)), elements=st.integers(-8, 7)))
def test_packing_loses_nothing(codes: np.ndarray) -> None:  # type: ignore[type-arg]
    assert np.array_equal(unpack_int4(pack_int4(codes)), codes)


def test_every_block_has_its_own_scale() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((3, 2 * INT4_BLOCK), dtype=np.float32)
    weight[1, :INT4_BLOCK] *= 1000
    weight[2, INT4_BLOCK:] = 0
    scale = int4_scale(weight, "w")
    assert scale.shape == (3, 2) and scale[2, 1] == 1
    codes = int4_codes(weight, scale)
    assert codes.dtype == np.int8 and codes.min() == -7 and codes.max() == 7
    for row in range(3):
        for block in range(2):
            part = slice(block * INT4_BLOCK, (block + 1) * INT4_BLOCK)
            expected = np.rint(weight[row, part] / scale[row, block])
            assert np.array_equal(codes[row, part], expected)


def test_codes_are_clamped_where_a_rounded_scale_is_too_small() -> None:
    weight = np.full((1, INT4_BLOCK), -7.9, np.float32)
    assert int4_codes(weight, np.ones((1, 1), np.float32)).tolist() == [[-7] * INT4_BLOCK]


def test_what_is_not_finite_is_refused() -> None:
    weight = np.ones((1, INT4_BLOCK), np.float32)
    weight[0, 3] = np.nan
    with pytest.raises(QuantizationError, match="not finite"):
        int4_scale(weight, "w")
