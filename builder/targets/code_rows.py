# SPDX-License-Identifier: Apache-2.0
"""Rows of a weight as codes with scales that all targets understand alike.

Codes that the checkpoint stores are kept where they are of the kind that is asked for; everything
else is quantised from its values. All functions may be called from several threads.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.imports.stored_weight import Codes, StoredWeight
from enginery.builder.checkpoint.scales import input_scale_name
from enginery.builder.network.weight import Weight, WeightPart
from enginery.builder.options import BuildOptions
from enginery.builder.targets.weight_rows import (
    FloatArray,
    not_finite,
    read_factor,
    read_float32,
    read_rounded,
    read_with_amax,
    round_scale,
)
from enginery.quantization import (
    INT4_BLOCK,
    SCHEMES,
    Fp8Weight,
    Int8Weight,
    QuantizationError,
    dequantize_fp8,
    dequantize_grouped_int4,
    dequantize_int8,
    int4_codes,
    int4_scale,
    quantize_fp8,
    quantize_grouped_int4,
    quantize_int8,
    round_to,
    widen,
)

# Scales of INT4 blocks beside operands of bfloat16 are rounded like them.
CPU_SCALE_DTYPE = "bf16"


def keeps_codes(stored: StoredWeight, dtype: str) -> bool:
    """Whether a weight of this dtype ("i8", "f8e4m3", "i4" per block) takes the codes as they are.

    INT4 needs groups of whole blocks; the others one scale per row and no zero point.
    """
    if (stored.dtype, dtype) == ("I4", "i4"):
        is_blocked = stored.shape[1] % INT4_BLOCK == 0 and stored.group_size % INT4_BLOCK == 0
        return stored.is_ordered and is_blocked
    is_same = (stored.dtype, dtype) in (("I8", "i8"), ("F8_E4M3", "f8e4m3"))
    return is_same and stored.group_size >= stored.shape[1] and not stored.has_zero_points


def input_scale(checkpoint: Checkpoint, weight: Weight) -> npt.NDArray[np.float32]:
    """The static scale of what a linear layer reads, f32 `[1]`.

    Layers that were stacked read one value: it is quantised by the largest of their scales.
    """
    names = [input_scale_name(part.tensor) for part in weight.parts]
    return np.array([max(checkpoint.read_scalar(name) for name in names)], np.float32)


def int8_rows(checkpoint: Checkpoint, rows: Weight) -> Int8Weight:
    """INT8 codes in -127..127, one scale per row.

    Raises:
        CheckpointError: a value is not finite.
    """
    parts = [_int8_part(checkpoint, rows, part) for part in rows.parts]
    codes, scales = zip(*parts, strict=True)
    return Int8Weight(np.concatenate(codes), np.concatenate(scales))


def fp8_rows(checkpoint: Checkpoint, rows: Weight) -> Fp8Weight:
    """E4M3 codes, one scale per row.

    Raises:
        CheckpointError: a value is not finite, or a code is a NaN.
    """
    parts = [_fp8_part(checkpoint, rows, part) for part in rows.parts]
    codes, scales = zip(*parts, strict=True)
    return Fp8Weight(np.concatenate(codes), np.concatenate(scales))


def int4_rows(
    checkpoint: Checkpoint, rows: Weight, act: str
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """INT4 codes int8 `[N, K]` and their scales `[N, K / 128]`, rounded to the dtype `act`.

    Codes that have zero points stay what they are; see `read_zero_terms`.

    Raises:
        CheckpointError: a value is not finite, or a scale not in the range of `act`.
    """
    parts = [_int4_part(checkpoint, rows, part) for part in rows.parts]
    codes, exact = map(np.concatenate, zip(*parts, strict=True))
    scale = round_scale(checkpoint, rows, exact, act)
    begin = 0
    for part in rows.parts:
        here = slice(begin, begin + part.num_rows)
        if _is_kept(checkpoint, part, "i4"):
            # Scales that are zero as they are kept were replaced by 1.
            is_zero = widen(round_to(exact[here], act)) == 0
            codes[here].reshape(*is_zero.shape, INT4_BLOCK)[is_zero] = 0
        else:  # rounded by the scales as they are kept
            values = read_float32(checkpoint, dataclasses.replace(rows, parts=(part,)))
            codes[here] = int4_codes(values, widen(scale[here]))
        begin += part.num_rows
    return codes, scale


def read_zero_terms(checkpoint: Checkpoint, rows: Weight) -> FloatArray:
    """-zero_point * scale of each block of INT4 codes, float32 `[N, K / 128]`.

    With these times the sums of the operand's blocks a product of codes less their zero points is
    the product of the codes alone and a small one beside it.

    Args:
        checkpoint: where the codes are.
        rows: whose columns count blocks.
    """
    parts = []
    for part in rows.parts:
        assert part.columns is not None
        begin, end = part.columns
        whole = dataclasses.replace(part, columns=(begin * INT4_BLOCK, end * INT4_BLOCK))
        terms = np.zeros((part.num_rows, end - begin), np.float32)
        if _is_kept(checkpoint, whole, "i4"):
            codes = _stored(checkpoint, whole, in_blocks=True)
            if codes.zero_point is not None:
                terms -= codes.zero_point * widen(round_to(codes.scale, CPU_SCALE_DTYPE))
        parts.append(terms)
    return np.concatenate(parts)


def zero_terms_of(weight: Weight) -> Weight:
    """The weight of an INT4 weight's zero terms, float32 `[N, K / 128]`."""
    parts = []
    for part in weight.parts:
        assert part.columns is not None
        begin, end = part.columns
        parts.append(dataclasses.replace(part, columns=(begin // INT4_BLOCK, end // INT4_BLOCK)))
    return Weight(f"{weight.name}.zero_terms", tuple(parts), "f32", is_zero_terms=True)


def dequantised_rows(checkpoint: Checkpoint, rows: Weight, options: BuildOptions) -> FloatArray:
    """The values that an engine computes with in place of a weight's, float32 `[N, K]`.

    Args:
        checkpoint: that the engine is built from.
        rows: of the quantised network.
        options: of the build.

    Raises:
        CheckpointError: as the packing of the same rows does.
    """
    if rows.dtype == "i8":
        return dequantize_int8(int8_rows(checkpoint, rows))
    if rows.dtype == "f8e4m3":
        return dequantize_fp8(fp8_rows(checkpoint, rows))
    if rows.dtype != "i4":
        return widen(read_rounded(checkpoint, rows, rows.dtype))
    if SCHEMES[options.qformat].activation_dtype == "i8":
        values, amax = read_with_amax(checkpoint, rows)
        return dequantize_grouped_int4(quantize_grouped_int4(values, rows.name, amax))
    codes, scale = int4_rows(checkpoint, rows, CPU_SCALE_DTYPE)
    zero_terms = read_zero_terms(checkpoint, zero_terms_of(rows))
    blocked = codes.reshape(*scale.shape, INT4_BLOCK) * widen(scale)[:, :, np.newaxis]
    dequantised: FloatArray = (blocked + zero_terms[:, :, np.newaxis]).reshape(codes.shape)
    return dequantised


def _is_kept(checkpoint: Checkpoint, part: WeightPart, dtype: str) -> bool:
    stored = checkpoint.stored.get(part.tensor)
    return stored is not None and keeps_codes(stored, dtype)


def _stored(checkpoint: Checkpoint, part: WeightPart, *, in_blocks: bool = False) -> Codes:
    """The codes of a part, and their scales times what its rows are multiplied by.

    Args:
        checkpoint: where they are.
        part: what of a tensor.
        in_blocks: whether scales and zero points are given for each block of 128 columns rather
            than for each group, which is made of whole blocks.
    """
    assert part.columns is not None
    stored = checkpoint.stored[part.tensor]
    begin, end = part.columns
    first = begin // stored.group_size * stored.group_size
    codes = stored.codes(part.rows, (first, end))
    factor = read_factor(checkpoint, part)
    scale = codes.scale if factor is None else codes.scale * factor[:, np.newaxis]
    codes = codes._replace(q=codes.q[:, begin - first :], scale=scale)
    if not in_blocks:
        return codes
    count = codes.group_size // INT4_BLOCK
    blocks = slice((begin - first) // INT4_BLOCK, (end - first) // INT4_BLOCK)
    zero_point = codes.zero_point
    if zero_point is not None:
        zero_point = np.repeat(zero_point, count, axis=1)[:, blocks]
    scale = np.repeat(scale, count, axis=1)[:, blocks]
    return Codes(codes.q, scale, zero_point, INT4_BLOCK)


def _int8_part(checkpoint: Checkpoint, rows: Weight, part: WeightPart) -> Int8Weight:
    if _is_kept(checkpoint, part, "i8"):
        codes = _stored(checkpoint, part)
        # Kernels multiply magnitudes: -128 has none in 8 bits. Libraries that divide by 127.5 have
        # one or two in a row.
        return Int8Weight(np.maximum(codes.q, np.int8(-127)), codes.scale[:, 0])
    values, amax = read_with_amax(checkpoint, dataclasses.replace(rows, parts=(part,)))
    return quantize_int8(values, rows.name, amax)


def _fp8_part(checkpoint: Checkpoint, rows: Weight, part: WeightPart) -> Fp8Weight:
    if _is_kept(checkpoint, part, "f8e4m3"):
        codes = _stored(checkpoint, part)
        return Fp8Weight(codes.q, codes.scale[:, 0])
    values, amax = read_with_amax(checkpoint, dataclasses.replace(rows, parts=(part,)))
    return quantize_fp8(values, rows.name, amax)


def _int4_part(
    checkpoint: Checkpoint, rows: Weight, part: WeightPart
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Codes and exact scales; codes of a part that is not kept are still to be made."""
    if _is_kept(checkpoint, part, "i4"):
        codes = _stored(checkpoint, part, in_blocks=True)
        return codes.q, codes.scale
    values = read_float32(checkpoint, dataclasses.replace(rows, parts=(part,)))
    try:
        return np.empty(values.shape, np.int8), int4_scale(values, rows.name)
    except QuantizationError as error:
        raise not_finite(checkpoint, rows) from error
