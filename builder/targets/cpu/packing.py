# SPDX-License-Identifier: Apache-2.0
"""Reads rows of a weight from the checkpoint and lays them out as the kernels read them.

Panels of 16 output channels; within a panel, 4 bytes of consecutive inputs (1 f32, 2 bf16 or 4 i8)
of each channel stand side by side: one vector register holds a dot-product operand of 16 outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.engine.program import GROUPS, PANEL
from enginery.builder.errors import CheckpointError, Problem
from enginery.builder.network.weight import Weight, WeightPart
from enginery.quantization import QuantizationError, float32_to_bfloat16, quantize_int8


class PackedRows(NamedTuple):
    """Packed bytes of some rows.

    Attributes:
        data: contiguous, in the layout asked for; rows padded with zeros to full panels.
        scale: float32 `[rows]` for i8, else None.
        column_sums: int32 `[rows]`, sum of each row's quantised weights, for i8, else None.
    """

    data: npt.NDArray[Any]
    scale: npt.NDArray[np.float32] | None
    column_sums: npt.NDArray[np.int32] | None


def pack_rows(
    checkpoint: Checkpoint, weight: Weight, layout: str, begin: int, end: int
) -> PackedRows:
    """Packs the rows [begin, end) of a weight; safe to call from several threads.

    Args:
        checkpoint: where the weight's parts are.
        weight: of rank 1 or 2; its dtype decides what is stored.
        layout: a layout of the engine format.
        begin: first row; for packed layouts a multiple of 16.
        end: one past the last row.

    Raises:
        CheckpointError: a value is not finite.
    """
    rows = weight.rows(begin, end)
    stored: npt.NDArray[Any]
    scale = column_sums = None
    if weight.dtype == "i8":
        try:
            stored, scale = quantize_int8(_read_float32(checkpoint, rows), weight.name)
        except QuantizationError as error:
            raise _not_finite(checkpoint, rows) from error
        column_sums = stored.sum(axis=1, dtype=np.int32)
    elif weight.dtype == "bf16":
        stored = _read_bfloat16(checkpoint, rows)
    else:
        stored = _read_float32(checkpoint, rows)
        if not np.isfinite(stored).all():
            raise _not_finite(checkpoint, rows)
    data = np.ascontiguousarray(stored) if layout == "rows" else _panels(stored, GROUPS[layout][0])
    return PackedRows(data, scale, column_sums)


def _panels(rows: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
    """`[N, K]` to `[ceil(N / 16), ceil(K / group), 16]` units of 4 bytes."""
    num_rows, depth = rows.shape
    missing = (-num_rows % PANEL, -depth % group)
    if any(missing):
        rows = np.pad(rows, ((0, missing[0]), (0, missing[1])))
    units = np.ascontiguousarray(rows).view(np.uint32)
    # [panels, 16, units] -> [panels, units, 16]
    return np.ascontiguousarray(units.reshape(-1, PANEL, units.shape[1]).transpose(0, 2, 1))


def _columns(part: WeightPart) -> slice:
    return slice(None) if part.columns is None else slice(*part.columns)


def _read_float32(checkpoint: Checkpoint, rows: Weight) -> npt.NDArray[np.float32]:
    parts = [
        checkpoint.read_float32(part.tensor, slice(*part.rows), _columns(part))
        for part in rows.parts
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_bfloat16(checkpoint: Checkpoint, rows: Weight) -> npt.NDArray[np.uint16]:
    parts = []
    for part in rows.parts:
        where = (part.tensor, slice(*part.rows), _columns(part))
        if checkpoint.tensors[part.tensor].dtype == "BF16":
            parts.append(checkpoint.read(*where))
        else:
            parts.append(float32_to_bfloat16(checkpoint.read_float32(*where)))
    stored = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if ((stored & np.uint16(0x7F80)) == 0x7F80).any():
        raise _not_finite(checkpoint, rows)
    return stored


def _not_finite(checkpoint: Checkpoint, rows: Weight) -> CheckpointError:
    """Names the tensor, in the checkpoint's words, that made a row impossible to store."""
    for part in rows.parts:
        values = checkpoint.read_float32(part.tensor, slice(*part.rows), _columns(part))
        bad = ~np.isfinite(values)
        if bad.any():
            row = part.rows[0] + int(np.argwhere(bad)[0][0])
            message = f"row {row} holds a NaN or an infinity"
            break
    else:
        part, message = rows.parts[0], "holds values beyond the range of bfloat16"
    fix = "the checkpoint is damaged or overflowed when it was saved"
    return CheckpointError(str(checkpoint.directory), [Problem(part.tensor, message, fix)])
