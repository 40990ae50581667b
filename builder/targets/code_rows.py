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
from enginery.builder.checkpoint.imports.stored_weight import Codes
from enginery.builder.checkpoint.scales import input_scale_name, weight_scale_2_name
from enginery.builder.errors import CheckpointError, Problem
from enginery.builder.network.weight import Blocks, Weight, WeightPart
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
    Fp8Int4Weight,
    Fp8Weight,
    GroupedInt4Weight,
    Int8Weight,
    QuantizationError,
    TwoLevels,
    dequantize_fp8,
    dequantize_fp8_int4,
    dequantize_grouped_int4,
    dequantize_int8,
    int4_codes,
    int4_scale,
    quantize_fp8,
    quantize_grouped_int4,
    quantize_int8,
    regroup_int4,
    round_to,
    two_levels,
    widen,
)

# Scales of INT4 blocks beside operands of bfloat16 are rounded like them.
CPU_SCALE_DTYPE = "bf16"


def input_scale(checkpoint: Checkpoint, *weights: Weight) -> npt.NDArray[np.float32]:
    """The static scale of the value that linear layers with these weights read, f32 `[1]`.

    It is quantised by the largest of their scales, and of those of layers that were stacked.
    """
    names = [input_scale_name(part.tensor) for weight in weights for part in weight.parts]
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
    """INT4 codes int8 `[N, K]` and their scales `[N, blocks]`, rounded to the dtype `act`.

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
        if _is_kept(checkpoint, part, "i4", _blocks(rows).size):
            # Scales that are zero as they are kept were replaced by 1.
            is_zero = widen(round_to(exact[here], act)) == 0
            codes[here].reshape(*is_zero.shape, -1)[is_zero] = 0
        else:  # rounded by the scales as they are kept
            values = read_float32(checkpoint, dataclasses.replace(rows, parts=(part,)))
            codes[here] = int4_codes(values, widen(scale[here]))
        begin += part.num_rows
    return codes, scale


def grouped_int4_rows(checkpoint: Checkpoint, rows: Weight) -> GroupedInt4Weight:
    """INT4 codes with a multiplier of each block and a scale of each row.

    Codes that have zero points are not freed of them; see `read_zero_terms`.

    Raises:
        CheckpointError: a value is not finite.
    """
    parts = [_grouped_int4_part(checkpoint, rows, part) for part in rows.parts]
    codes, multipliers, scale, _ = zip(*parts, strict=True)
    return GroupedInt4Weight(
        np.concatenate(codes),
        np.concatenate(multipliers),
        np.concatenate(scale),
        _blocks(rows).size,
    )


def fp8_int4_rows(checkpoint: Checkpoint, rows: Weight) -> Fp8Int4Weight:
    """INT4 codes with a scale of each block in units of the row's, which makes FP8 of them.

    The row's is the checkpoint's scale of the whole weight, times what the row is multiplied by:
    factors of rows move no code.

    Raises:
        CheckpointError: a scale is not finite, or not in these units.
    """
    size = _blocks(rows).size
    parts = [_fp8_int4_part(checkpoint, part, size) for part in rows.parts]
    return Fp8Int4Weight(*map(np.concatenate, zip(*parts, strict=True)))


def read_zero_terms(checkpoint: Checkpoint, rows: Weight) -> FloatArray:
    """-zero_point * scale of each block of INT4 codes, float32 `[N, blocks]`.

    With these times the sums of the operand's blocks a product of codes less their zero points is
    the product of the codes alone and a small one beside it. Scales are those of the codes: as an
    engine keeps them.

    Args:
        checkpoint: where the codes are.
        rows: whose columns count blocks.
    """
    blocks = _blocks(rows)
    parts = []
    for part in rows.parts:
        assert part.columns is not None
        begin, end = part.columns
        whole = dataclasses.replace(part, columns=(begin * blocks.size, end * blocks.size))
        terms = np.zeros((part.num_rows, end - begin), np.float32)
        if _is_kept(checkpoint, whole, "i4", blocks.size):
            codes = _stored_blocks(checkpoint, whole, blocks.size)
            if codes.zero_point is not None:
                terms -= codes.zero_point * _kept_scale(checkpoint, whole, blocks, codes.scale)
        parts.append(terms)
    return np.concatenate(parts)


def zero_terms_of(weight: Weight) -> Weight:
    """The weight of an INT4 weight's zero terms, float32 `[N, blocks]`."""
    blocks, parts = _blocks(weight), []
    for part in weight.parts:
        assert part.columns is not None
        begin, end = part.columns
        columns = (begin // blocks.size, -(-end // blocks.size))
        parts.append(dataclasses.replace(part, columns=columns))
    name = f"{weight.name}.zero_terms"
    return Weight(name, tuple(parts), "f32", blocks, is_zero_terms=True)


def dequantised_rows(checkpoint: Checkpoint, rows: Weight) -> FloatArray:
    """The values that an engine computes with in place of a weight's, float32 `[N, K]`.

    Args:
        checkpoint: that the engine is built from.
        rows: of the quantised network.

    Raises:
        CheckpointError: as the packing of the same rows does.
    """
    if rows.dtype == "i8":
        return dequantize_int8(int8_rows(checkpoint, rows))
    if rows.dtype == "f8e4m3":
        return dequantize_fp8(fp8_rows(checkpoint, rows))
    if rows.dtype != "i4":
        return widen(read_rounded(checkpoint, rows, rows.dtype))
    blocks = _blocks(rows)
    if blocks.product_dtype == "f8e4m3":
        return dequantize_fp8_int4(fp8_int4_rows(checkpoint, rows))
    if blocks.product_dtype == "i8":
        values = dequantize_grouped_int4(grouped_int4_rows(checkpoint, rows))
    else:
        codes, scale = int4_rows(checkpoint, rows, CPU_SCALE_DTYPE)
        values = codes.astype(np.float32) * np.repeat(widen(scale), blocks.size, axis=1)
    zero_terms = read_zero_terms(checkpoint, zero_terms_of(rows))
    dequantised: FloatArray = np.repeat(zero_terms, blocks.size, axis=1)[:, : rows.shape[1]]
    dequantised += values
    return dequantised


def _blocks(rows: Weight) -> Blocks:
    assert rows.blocks is not None
    return rows.blocks


def _is_kept(checkpoint: Checkpoint, part: WeightPart, dtype: str, block_size: int = 0) -> bool:
    stored = checkpoint.stored.get(part.tensor)
    return stored is not None and stored.keeps_codes(dtype, block_size)


def _stored(checkpoint: Checkpoint, part: WeightPart, *, has_factor: bool = True) -> Codes:
    """The codes of a part, and their scales, times what its rows are multiplied by if asked for."""
    assert part.columns is not None
    stored = checkpoint.stored[part.tensor]
    begin, end = part.columns
    first = begin // stored.group_size * stored.group_size
    codes = stored.codes(part.rows, (first, end))
    factor = read_factor(checkpoint, part) if has_factor else None
    scale = codes.scale if factor is None else codes.scale * factor[:, np.newaxis]
    return codes._replace(q=codes.q[:, begin - first :], scale=scale)


def _stored_blocks(
    checkpoint: Checkpoint, part: WeightPart, size: int, *, has_factor: bool = True
) -> Codes:
    """As `_stored`, with scales and zero points of blocks, of which each group has some."""
    assert part.columns is not None
    codes = _stored(checkpoint, part, has_factor=has_factor)
    count = codes.group_size // size
    begin, end = (column // size for column in part.columns)
    first = begin // count * count
    blocks = slice(begin - first, end - first)
    zero_point = codes.zero_point
    if zero_point is not None:
        zero_point = np.repeat(zero_point, count, axis=1)[:, blocks]
    scale = np.repeat(codes.scale, count, axis=1)[:, blocks]
    return Codes(codes.q, scale, zero_point, size)


def _two_levels(
    checkpoint: Checkpoint, part: WeightPart, size: int, scale: FloatArray
) -> TwoLevels:
    """Of scales of a part's blocks: multipliers of a scale that follows from the whole rows."""
    whole = dataclasses.replace(part, columns=(0, checkpoint.stored[part.tensor].shape[1]))
    of_rows = scale if part == whole else _stored_blocks(checkpoint, whole, size).scale
    return two_levels(scale, np.abs(of_rows).max(axis=1))


def _kept_scale(
    checkpoint: Checkpoint, part: WeightPart, blocks: Blocks, scale: FloatArray
) -> FloatArray:
    """Scales of a part's blocks as an engine keeps them."""
    if blocks.product_dtype == "i8":
        return _two_levels(checkpoint, part, blocks.size, scale).group_scale()
    return widen(round_to(scale, CPU_SCALE_DTYPE))


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
    size = _blocks(rows).size
    if _is_kept(checkpoint, part, "i4", size):
        codes = _stored_blocks(checkpoint, part, size)
        return codes.q, codes.scale
    values = read_float32(checkpoint, dataclasses.replace(rows, parts=(part,)))
    try:
        return np.empty(values.shape, np.int8), int4_scale(values, rows.name, size)
    except QuantizationError as error:
        raise not_finite(checkpoint, rows) from error


def _fp8_int4_part(checkpoint: Checkpoint, part: WeightPart, size: int) -> Fp8Int4Weight:
    codes = _stored_blocks(checkpoint, part, size, has_factor=False)
    unit = np.float32(checkpoint.read_scalar(weight_scale_2_name(part.tensor)))
    factor = read_factor(checkpoint, part)
    scale = np.full(part.num_rows, unit) if factor is None else factor * unit
    with np.errstate(over="ignore"):
        group_scale = codes.scale / unit
    if not np.isfinite(group_scale).all():
        problem = Problem(
            f"{part.tensor}_scale",
            f"leaves the range of float32 in units of {weight_scale_2_name(part.tensor)}, {unit}",
            "the file is damaged, or was not written by ModelOpt",
        )
        raise CheckpointError(str(checkpoint.directory), [problem])
    return Fp8Int4Weight(codes.q, group_scale, scale)


def _grouped_int4_part(checkpoint: Checkpoint, rows: Weight, part: WeightPart) -> GroupedInt4Weight:
    size = _blocks(rows).size
    if _is_kept(checkpoint, part, "i4", size):
        codes = _stored_blocks(checkpoint, part, size)
        levels = _two_levels(checkpoint, part, size, codes.scale)
        return regroup_int4(codes.q, codes.scale, codes.zero_point, levels)
    values, amax = read_with_amax(checkpoint, dataclasses.replace(rows, parts=(part,)))
    return quantize_grouped_int4(values, rows.name, amax, size)
