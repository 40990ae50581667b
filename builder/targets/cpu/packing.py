# SPDX-License-Identifier: Apache-2.0
"""Reads rows of a weight from the checkpoint and lays them out as the kernels read them.

Panels of 16 output channels; within a panel, 4 bytes of consecutive inputs (1 f32, 2 bf16, 4 i8 or
8 i4) of each channel stand side by side: one vector register holds a dot-product operand of 16
outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.engine.program import GROUPS, INT4, PANEL
from enginery.builder.network.weight import Weight
from enginery.builder.targets.code_rows import (
    CPU_SCALE_DTYPE,
    fp8_int4_rows,
    fp8_rows,
    grouped_int4_rows,
    int4_rows,
    int8_rows,
    read_zero_terms,
)
from enginery.builder.targets.weight_rows import read_rounded
from enginery.quantization import widen


class PackedRows(NamedTuple):
    """Packed bytes of some rows.

    Attributes:
        data: contiguous, in the layout asked for; rows padded with zeros to full panels.
        scale: float32 `[rows]` for codes, ones for i4 whose rows have none; else None.
        column_sums: int32 `[rows]`, sum of each row's quantised weights, those of i4 times the
            multipliers of their groups, for i8 and i4, else None.
        group_scales: for i4 in layout n16k1, rows padded with ones: int8 multipliers, or float32
            scales; else None.
    """

    data: npt.NDArray[Any]
    scale: npt.NDArray[np.float32] | None = None
    column_sums: npt.NDArray[np.int32] | None = None
    group_scales: npt.NDArray[Any] | None = None


def pack_rows(
    checkpoint: Checkpoint,
    weight: Weight,
    layout: str,
    begin: int,
    end: int,
) -> PackedRows:
    """Packs the rows [begin, end) of a weight; safe to call from several threads.

    Args:
        checkpoint: where the weight's parts are.
        weight: of rank 1 or 2; its dtype and its blocks decide what is stored.
        layout: a layout of the engine format.
        begin: first row; for packed layouts a multiple of 16.
        end: one past the last row.

    Raises:
        CheckpointError: a value is not finite.
    """
    rows = weight.rows(begin, end)
    if weight.dtype == INT4:
        assert weight.blocks is not None
        return _INT4_ROWS[weight.blocks.product_dtype](checkpoint, rows, layout)
    if weight.dtype == "f8e4m3":
        fp8 = fp8_rows(checkpoint, rows)
        return PackedRows(_panels(fp8.q, GROUPS[layout][0], np.uint16), fp8.scale)
    stored: npt.NDArray[Any]
    scale = column_sums = None
    if weight.dtype == "i8":
        stored, scale = int8_rows(checkpoint, rows)
        column_sums = stored.sum(axis=1, dtype=np.int32)
    elif weight.is_zero_terms:
        stored = read_zero_terms(checkpoint, rows)
    else:
        stored = read_rounded(checkpoint, rows, weight.dtype)
    data = np.ascontiguousarray(stored) if layout == "rows" else _panels(stored, GROUPS[layout][0])
    return PackedRows(data, scale, column_sums)


def _int4_rows(checkpoint: Checkpoint, rows: Weight, layout: str) -> PackedRows:
    """Groups have scales of their own, in bf16 like the operand."""
    codes, scale = int4_rows(checkpoint, rows, CPU_SCALE_DTYPE)
    group_scales = _interleaved(_padded(widen(scale), 1, fill=1))
    ones = np.ones(len(codes), np.float32)
    return PackedRows(_int4_panels(codes, layout), ones, group_scales=group_scales)


def _exact_int4_rows(checkpoint: Checkpoint, rows: Weight, layout: str) -> PackedRows:
    """Groups have multipliers of a scale per row."""
    weight = grouped_int4_rows(checkpoint, rows)
    column_sums = weight.int8_codes().sum(axis=1, dtype=np.int32)
    group_scales = _interleaved(_padded(weight.multipliers, 1, fill=1))
    return PackedRows(_int4_panels(weight.q, layout), weight.scale, column_sums, group_scales)


def _fp8_int4_rows(checkpoint: Checkpoint, rows: Weight, layout: str) -> PackedRows:
    """Groups have scales in units of the row's, in which products are rounded to E4M3."""
    weight = fp8_int4_rows(checkpoint, rows)
    group_scales = _interleaved(_padded(weight.group_scale, 1, fill=1))
    return PackedRows(_int4_panels(weight.q, layout), weight.scale, group_scales=group_scales)


# By `Blocks.product_dtype`.
_INT4_ROWS = {None: _int4_rows, "i8": _exact_int4_rows, "f8e4m3": _fp8_int4_rows}


def _int4_panels(codes: npt.NDArray[np.int8], layout: str) -> npt.NDArray[Any]:
    """Codes -8..7, `[N, K]`, as codes with zero point 8, two in a byte."""
    assert layout == "n16k8"
    padded = _padded(codes, GROUPS[layout][0]).view(np.uint8) + np.uint8(8)
    # [rows, groups of 8, halves, 4]: the first four codes of a group stand in the low halves.
    quads = padded.reshape(padded.shape[0], -1, 2, 4)
    data = quads[:, :, 0] | (quads[:, :, 1] << np.uint8(4))
    return _panels(data.reshape(padded.shape[0], -1), 4)


def _panels(rows: npt.NDArray[Any], group: int, unit: type = np.uint32) -> npt.NDArray[Any]:
    """`[N, K]` to `[ceil(N / 16), ceil(K / group), 16]` units of a group each."""
    return _interleaved(np.ascontiguousarray(_padded(rows, group)).view(unit))


def _padded(rows: npt.NDArray[Any], group: int, fill: int = 0) -> npt.NDArray[Any]:
    """Rows to full panels, columns to full groups."""
    num_rows, depth = rows.shape
    missing = (-num_rows % PANEL, -depth % group)
    if not any(missing):
        return rows
    return np.pad(rows, ((0, missing[0]), (0, missing[1])), constant_values=fill)


def _interleaved(units: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`[panels * 16, units]` to `[panels, units, 16]`."""
    return np.ascontiguousarray(units.reshape(-1, PANEL, units.shape[1]).transpose(0, 2, 1))
