# SPDX-License-Identifier: Apache-2.0
"""Rounds single weights and lays them out as the libraries that quantise checkpoints do."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from enginery.quantization import e4m3_to_float32, float32_to_e4m3

from .raw_tensors import Stored

FloatArray = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
SCALE_TYPES: dict[str, Any] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32}


class Quantized(NamedTuple):
    """A weight as a library stores it.

    Attributes:
        tensors: by what follows the module's name, e.g. "qweight".
        values: float32 `[N, K]`, what the codes stand for.
    """

    tensors: dict[str, Stored]
    values: FloatArray


class Groups(NamedTuple):
    """Codes less no zero point: unsigned codes `[N, K]`, scales and zero points `[N, G]`."""

    codes: Codes
    scale: FloatArray
    zero_point: Codes
    group_of: Codes  # [K]

    def values(self) -> FloatArray:
        """What the codes stand for."""
        zero_point = self.zero_point[:, self.group_of]
        return (self.codes - zero_point).astype(np.float32) * self.scale[:, self.group_of]


def awq(weight: FloatArray, group_size: int, *, zero_point: bool = True) -> Quantized:
    """AutoAWQ's "gemm" layout; without zero points they are 8, as GPTQModel stores them."""
    groups = round_groups(weight, group_size, 4, symmetric=not zero_point)
    num_rows = len(weight)
    order = [8 * word + i for word in range(num_rows // 8) for i in AWQ_ORDER]
    return Quantized(
        {
            "qweight": (pack(groups.codes.T[:, order], 4), "I32"),
            "qzeros": (pack(groups.zero_point.T[:, order], 4), "I32"),
            "scales": (groups.scale.T.astype(np.float16), "F16"),
        },
        groups.values(),
    )


def gptq(
    weight: FloatArray,
    group_size: int,
    *,
    sym: bool = True,
    desc_act: bool = False,
    is_v2: bool = False,
) -> Quantized:
    """AutoGPTQ's layout, with a bias of zeros."""
    order = _shuffled(weight) if desc_act else None
    groups = round_groups(weight, group_size, 4, symmetric=sym, order=order)
    stored_zeros = groups.zero_point if is_v2 else groups.zero_point - 1
    return Quantized(
        {
            "qweight": (pack(groups.codes, 4).T, "I32"),
            "qzeros": (pack(stored_zeros.T & 15, 4), "I32"),
            "scales": (groups.scale.T.astype(np.float16), "F16"),
            "g_idx": (groups.group_of.astype(np.int32), "I32"),
            "bias": (np.zeros(len(weight), np.float16), "F16"),
        },
        groups.values(),
    )


def pack_quantized(
    weight: FloatArray,
    group_size: int,
    *,
    num_bits: int = 4,
    symmetric: bool = True,
    actorder: bool = False,
    scale_dtype: str = "BF16",
) -> Quantized:
    """Format "pack-quantized" of compressed-tensors; a group size of -1 is one per row."""
    order = _shuffled(weight) if actorder else None
    groups = round_groups(
        weight,
        group_size,
        num_bits,
        symmetric=symmetric,
        order=order,
        scale_dtype=scale_dtype,
        reaches_lowest=True,
    )
    tensors: dict[str, Stored] = {
        "weight_packed": (pack(groups.codes, num_bits), "I32"),
        "weight_scale": store_scale(groups.scale, scale_dtype),
        "weight_shape": (np.array(weight.shape, np.int64), "I64"),
    }
    if not symmetric:
        tensors["weight_zero_point"] = (pack(groups.zero_point.T, num_bits).T, "I32")
    if actorder:
        tensors["weight_g_idx"] = (groups.group_of.astype(np.int32), "I32")
    return Quantized(tensors, groups.values())


def int8(weight: FloatArray, *, scale_dtype: str = "F32") -> Quantized:
    """Format "int-quantized" of compressed-tensors, one scale per row."""
    groups = round_groups(
        weight, -1, 8, symmetric=True, scale_dtype=scale_dtype, reaches_lowest=True
    )
    codes = (groups.codes - 128).astype(np.int8)
    tensors = {"weight": (codes, "I8"), "weight_scale": store_scale(groups.scale, scale_dtype)}
    return Quantized(tensors, groups.values())


def fp8(
    weight: FloatArray,
    block: tuple[int, int] | None,
    *,
    scale_name: str = "weight_scale",
    scale_dtype: str = "F32",
) -> Quantized:
    """E4M3 codes with a scale per block; None is one scale in all, of shape `[1]`."""
    rows, columns = block or weight.shape
    grid = (-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))
    scale = np.empty(grid, np.float32)
    for i, j in np.ndindex(grid):
        inside = weight[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
        scale[i, j] = np.abs(inside).max() / 448
    scale = rounded_scale(scale, scale_dtype)
    spread = scale.repeat(rows, 0).repeat(columns, 1)[: len(weight), : weight.shape[1]]
    codes = float32_to_e4m3(weight / spread)
    stored, dtype = store_scale(scale, scale_dtype)
    tensors: dict[str, Stored] = {
        "weight": (codes, "F8_E4M3"),
        scale_name: (stored if block else stored.reshape(1), dtype),
    }
    return Quantized(tensors, e4m3_to_float32(codes) * spread)


def round_groups(
    weight: FloatArray,
    group_size: int,
    num_bits: int,
    *,
    symmetric: bool,
    order: Codes | None = None,
    scale_dtype: str = "F16",
    reaches_lowest: bool = False,
) -> Groups:
    """Rounds to nearest in groups of inputs, which follow each other in `order`.

    Symmetric codes are from -7 to 7 (-127 to 127); with `reaches_lowest` the scale is that of
    compressed-tensors, by which a group's least value becomes -8 (-128) where it is the largest.
    """
    num_rows, depth = weight.shape
    size = depth if group_size == -1 else group_size
    group_of = np.empty(depth, np.int64)
    group_of[np.arange(depth) if order is None else order] = np.arange(depth) // size
    half, top = 1 << (num_bits - 1), (1 << num_bits) - 1
    shape = (num_rows, -(-depth // size))
    scale, zero_point = np.empty(shape, np.float32), np.full(shape, half, np.int64)
    for group in range(shape[1]):
        inside = weight[:, group_of == group]
        low, high = inside.min(1).clip(max=0), inside.max(1).clip(min=0)
        steps = half - 0.5 if reaches_lowest else half - 1
        exact = np.abs(inside).max(1) / steps if symmetric else (high - low) / top
        scale[:, group] = rounded_scale(exact, scale_dtype)
        if not symmetric:
            zero_point[:, group] = np.round(-low / scale[:, group]).clip(0, top)
    codes = np.round(weight / scale[:, group_of]).astype(np.int64) + zero_point[:, group_of]
    return Groups(codes.clip(0, top), scale, zero_point, group_of)


def pack(codes: Codes, num_bits: int) -> npt.NDArray[np.int32]:
    """Packs rows of unsigned codes into words, lowest bits first; the last is filled with 0."""
    per_word = 32 // num_bits
    words = np.zeros((len(codes), -(-codes.shape[1] // per_word)), np.uint32)
    for column in range(codes.shape[1]):
        shifted = codes[:, column].astype(np.uint32) << np.uint32(num_bits * (column % per_word))
        words[:, column // per_word] |= shifted
    return words.view(np.int32)


def rounded_scale(scale: FloatArray, dtype: str) -> FloatArray:
    """Scales as they are once they have been stored in a dtype."""
    return scale.astype(SCALE_TYPES[dtype]).astype(np.float32)


def store_scale(scale: FloatArray, dtype: str) -> Stored:
    """Scales as a file holds them."""
    stored = scale.astype(SCALE_TYPES[dtype])
    return (stored.view(np.uint16) if dtype == "BF16" else stored), dtype


def _shuffled(weight: FloatArray) -> Codes:
    return np.random.default_rng(weight.shape[1]).permutation(weight.shape[1])
