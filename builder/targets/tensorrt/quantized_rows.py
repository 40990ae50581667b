# SPDX-License-Identifier: Apache-2.0
"""Rows of a weight as a `tensorrt` program stores them: row-major, codes with their scales."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.weight import Weight
from enginery.builder.targets.code_rows import fp8_rows, int4_rows, int8_rows
from enginery.builder.targets.weight_rows import read_rounded, read_with_amax, round_scale
from enginery.quantization import int8_codes, pack_int4, row_scale, widen


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
        return StoredRows(*fp8_rows(checkpoint, rows))
    if weight.dtype == "i8" and qformat == "int8_sq":
        return StoredRows(*int8_rows(checkpoint, rows))
    if weight.dtype == "i8":
        values, amax = read_with_amax(checkpoint, rows)
        scale = round_scale(checkpoint, rows, row_scale(values, weight.name, 127, amax), act)
        return StoredRows(int8_codes(values, widen(scale)), scale)
    if weight.dtype == "i4":
        codes, scale = int4_rows(checkpoint, rows, act)
        return StoredRows(pack_int4(codes), scale)
    return StoredRows(np.ascontiguousarray(read_rounded(checkpoint, rows, weight.dtype)), None)
