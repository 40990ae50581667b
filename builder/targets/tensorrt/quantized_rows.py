# SPDX-License-Identifier: Apache-2.0
"""Rows of a weight as a `tensorrt` program stores them: row-major, codes with their scales."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.scales import weight_scale_name
from enginery.builder.network.weight import Weight, WeightPart
from enginery.builder.targets.weight_rows import (
    not_a_number,
    not_finite,
    read_float32,
    read_rounded,
    read_with_amax,
    round_scale,
)
from enginery.quantization import (
    Fp8Weight,
    QuantizationError,
    int4_codes,
    int4_scale,
    int8_codes,
    pack_int4,
    quantize_fp8,
    quantize_int8,
    row_scale,
    widen,
)


class StoredRows(NamedTuple):
    """Rows of a weight, contiguous.

    Attributes:
        data: values or codes.
        scale: of the weight alone, in the dtype in which it is stored where activations are not
            quantised, else float32; None where the data are values.
    """

    data: npt.NDArray[Any]
    scale: npt.NDArray[Any] | None


def stored_rows(
    checkpoint: Checkpoint, weight: Weight, qformat: str, act: str, begin: int, end: int
) -> StoredRows:
    """Makes the rows [begin, end) of a weight; safe to call from several threads.

    Args:
        checkpoint: where the weight's parts are.
        weight: of rank 1 or 2; its dtype says whether it holds codes.
        qformat: what the codes mean.
        act: the build dtype, of scales that are beside activations of that dtype.
        begin: first row.
        end: one past the last row.

    Raises:
        CheckpointError: a value is not finite, or not in the range of the dtype.
    """
    rows = weight.rows(begin, end)
    if weight.dtype == "f8e4m3":
        parts = [_fp8_rows(checkpoint, rows, part) for part in rows.parts]
        codes, scales = zip(*parts, strict=True)
        return StoredRows(np.concatenate(codes), np.concatenate(scales))
    if weight.dtype == "i8" and qformat == "int8_sq":
        values, amax = read_with_amax(checkpoint, rows)
        return StoredRows(*quantize_int8(values, weight.name, amax))
    if weight.dtype == "i8":
        values, amax = read_with_amax(checkpoint, rows)
        scale = round_scale(checkpoint, rows, row_scale(values, weight.name, 127, amax), act)
        return StoredRows(int8_codes(values, widen(scale)), scale)
    if weight.dtype == "i4":
        values = read_float32(checkpoint, rows)
        scale = round_scale(checkpoint, rows, _int4_scale(checkpoint, rows, values), act)
        return StoredRows(pack_int4(int4_codes(values, widen(scale))), scale)
    return StoredRows(np.ascontiguousarray(read_rounded(checkpoint, rows, weight.dtype)), None)


def _fp8_rows(checkpoint: Checkpoint, rows: Weight, part: WeightPart) -> Fp8Weight:
    """Quantises a part's rows, or keeps the codes that are in the checkpoint already."""
    if checkpoint.tensors[part.tensor].dtype == "F8_E4M3":
        assert part.columns is not None
        codes = checkpoint.read(part.tensor, slice(*part.rows), slice(*part.columns))
        scale = checkpoint.read_scalar(weight_scale_name(part.tensor))
        if ((codes & 0x7F) == 0x7F).any():
            raise not_a_number(checkpoint, part.tensor)
        return Fp8Weight(codes, np.full(len(codes), scale, np.float32))
    values, amax = read_with_amax(checkpoint, dataclasses.replace(rows, parts=(part,)))
    return quantize_fp8(values, rows.name, amax)


def _int4_scale(
    checkpoint: Checkpoint, rows: Weight, values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    try:
        return int4_scale(values, rows.name)
    except QuantizationError as error:
        raise not_finite(checkpoint, rows) from error
