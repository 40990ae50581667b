# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from enginery.quantization import (
    bfloat16_to_float32,
    float32_to_bfloat16,
    round_to,
    widen,
)


def torch_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    bits: npt.NDArray[np.uint16] = rounded.view(torch.int16).numpy().view(np.uint16)
    return bits


def test_rounds_as_torch_does_on_random_bit_patterns() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_003, dtype=np.uint32)
    values = bits.view(np.float32)
    is_nan = np.isnan(values)
    assert is_nan.any()
    assert np.array_equal(float32_to_bfloat16(values)[~is_nan], torch_bits(values)[~is_nan])
    assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(values)))[is_nan].all()


def test_ties_go_to_even_and_edges_hold() -> None:
    cases = {
        1.0: 0x3F80,
        1.00390625: 0x3F80,  # half way between 0x3F80 and 0x3F81
        1.01171875: 0x3F82,  # half way between 0x3F81 and 0x3F82
        -0.0: 0x8000,
        float("inf"): 0x7F80,
        3.4028235e38: 0x7F80,  # the largest float32 is beyond the largest bfloat16
        3.3895314e38: 0x7F7F,
        1e-45: 0x0000,
    }
    values = np.array(list(cases), np.float32)
    assert [hex(b) for b in float32_to_bfloat16(values)] == [hex(b) for b in cases.values()]


def test_a_nan_whose_payload_would_be_rounded_away_stays_a_nan() -> None:
    values = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(bfloat16_to_float32(float32_to_bfloat16(values))).all()


def test_every_bfloat16_survives_widening() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    widened = bfloat16_to_float32(bits)
    finite = ~np.isnan(widened)
    assert np.array_equal(float32_to_bfloat16(widened)[finite], bits[finite])


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)],
)
def test_round_to_and_widen_give_what_torch_gives(dtype: str, torch_dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    values = (rng.standard_normal(50_001) * np.exp(rng.uniform(-20, 11, 50_001))).astype(np.float32)
    expected = torch.from_numpy(values).to(torch_dtype).float().numpy()
    assert np.array_equal(widen(round_to(values, dtype)), expected)


def test_what_is_beyond_float16_becomes_infinite() -> None:
    values = np.array([65504, 65519, 65520, -1e30], np.float32)
    assert round_to(values, "f16").tolist() == [65504, 65504, np.inf, -np.inf]
