# SPDX-License-Identifier: Apache-2.0
"""Inverse frequencies of the rotary embedding.

In float32 and in the order of operations of transformers' `modeling_rope_utils`, whose results they
reproduce.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.rope import Rope

FloatArray = npt.NDArray[np.float32]


def inverse_frequencies(rope: Rope, head_dim: int) -> FloatArray:
    """Returns float32 `[head_dim / 2]`: the angle per position of each pair of components."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    # numpy's float32 power differs from one instruction set to the next; this one does not, and so
    # the same checkpoint gives the same engine on every machine.
    powers = np.array([rope.theta ** float(exponent) for exponent in exponents], np.float32)
    frequencies = np.float32(1) / powers
    if rope.rope_type == "linear":
        return frequencies / np.float32(rope.factor)
    if rope.rope_type == "llama3":
        return _llama3(rope, frequencies)
    if rope.rope_type == "yarn":
        return _yarn(rope, powers, head_dim)
    return frequencies


def rope_scale(rope: Rope) -> float:
    """By what cos and sin are multiplied: yarn's attention factor, else 1.

    YaRN (arXiv:2309.00071), section 3.4, with the extension by two mscale entries.
    """
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return _mscale(rope.factor, rope.mscale) / _mscale(rope.factor, rope.mscale_all_dim)
    return _mscale(rope.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _llama3(rope: Rope, frequencies: FloatArray) -> FloatArray:
    """Low frequencies are divided by the factor, high ones kept, those between blended."""
    length = np.float32(rope.original_max_position_embeddings)
    low, high = np.float32(rope.low_freq_factor), np.float32(rope.high_freq_factor)
    factor = np.float32(rope.factor)
    wavelengths = np.float32(2 * math.pi) / frequencies
    is_low = wavelengths > length / low
    is_high = wavelengths < length / high
    smooth = (length / wavelengths - low) / (high - low)
    blended = (1 - smooth) * frequencies / factor + smooth * frequencies
    return np.where(is_low, frequencies / factor, np.where(is_high, frequencies, blended))


def _yarn(rope: Rope, powers: FloatArray, head_dim: int) -> FloatArray:
    """Blends stretched and original frequencies along a ramp over the dimensions."""

    def dimension_of(num_rotations: float) -> float:
        length = rope.original_max_position_embeddings
        turns = length / (num_rotations * 2 * math.pi)
        return (head_dim * math.log(turns)) / (2 * math.log(rope.theta))

    low, high = dimension_of(rope.beta_fast), dimension_of(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    dimensions = np.arange(head_dim // 2, dtype=np.float32)
    ramp = np.clip((dimensions - np.float32(low)) / np.float32(high - low), 0, 1)
    kept = np.float32(1) - ramp
    extrapolated = np.float32(1) / powers
    interpolated = np.float32(1) / (np.float32(rope.factor) * powers)
    return (interpolated * (np.float32(1) - kept) + extrapolated * kept).astype(np.float32)
