# SPDX-License-Identifier: Apache-2.0
"""INT4 weights in two levels: real = q * multiplier of the group * scale of the output channel.

Two levels as in QServe (arXiv:2405.04532, "progressive group quantization"), without zero points.
|q * multiplier| is at most 120, so that it is an INT8 code: sums of products with INT8 activations
are exact integers over the whole of a row, and one float32 scale ends them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.quantization.int4 import INT4_BLOCK
from enginery.quantization.scaling import row_scale

MIN_CODE, MAX_CODE = -8, 7
MAX_MULTIPLIER = 15
# Multipliers tried for a group, from the least that cuts nothing off downwards: finer steps are
# worth a few cut values. Five and both signs would lower the error by 0.1 % in all.
NUM_CANDIDATES = 4
_CHUNK = 1 << 16  # values worked on at a time, so that what is in between stays in the cache
_RECIPROCALS = np.float32(1) / np.arange(1, MAX_MULTIPLIER + 1, dtype=np.float32)


class GroupedInt4Weight(NamedTuple):
    """Quantised rows of a weight `[N, K]`, in groups of inputs; the last may be shorter.

    Attributes:
        q: int8 `[N, K]`, in -8..7.
        multipliers: int8 `[N, ceil(K / group_size)]`, of magnitude 1..15.
        scale: float32 `[N]`, above zero.
        group_size: inputs that share a multiplier.
    """

    q: npt.NDArray[np.int8]
    multipliers: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    group_size: int = INT4_BLOCK

    def int8_codes(self) -> npt.NDArray[np.int8]:
        """Returns int8 `[N, K]`, q times the multiplier of its group: real = code * scale."""
        depth = self.q.shape[1]
        codes: npt.NDArray[np.int8] = np.repeat(self.multipliers, self.group_size, axis=1)
        return codes[:, :depth] * self.q


def quantize_grouped_int4(
    weight: npt.NDArray[np.float32],
    name: str,
    amax: npt.NDArray[np.float32] | None = None,
    group_size: int = INT4_BLOCK,
) -> GroupedInt4Weight:
    """Quantises each group of columns by the multiplier that leaves the least squared error.

    A row's scale is amax / 120: its widest group takes the multiplier 15. The multiplier's sign
    puts a group's largest magnitude on the side of -8. A group of zeros gets 1, a row of zeros
    scale 1. The result does not depend on the machine: every float operation is rounded by
    itself and sums have one order.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.
        amax: float32 `[N]`, the magnitude to scale each row by where `weight` holds only some of
            the columns, from a multiple of `group_size` on; None takes the row's own.
        group_size: columns of a group, a power of 2.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    num_rows, depth = weight.shape
    num_groups = -(-depth // group_size)
    scale = row_scale(weight, name, -MIN_CODE * MAX_MULTIPLIER, amax)
    q = np.empty((num_rows, depth), np.int8)
    multipliers = np.empty((num_rows, num_groups), np.int8)
    step = max(_CHUNK // (num_groups * group_size), 1)
    for begin in range(0, num_rows, step):
        rows = slice(begin, begin + step)
        steps = np.zeros((min(step, num_rows - begin), num_groups * group_size), np.float32)
        np.divide(weight[rows], scale[rows, np.newaxis], out=steps[:, :depth])
        # [group_size, rows * groups]: one operation of numpy covers all groups.
        columns = np.ascontiguousarray(steps.reshape(-1, group_size).T)
        codes, chosen = _quantize_columns(columns)
        q[rows] = codes.T.reshape(steps.shape)[:, :depth]
        multipliers[rows] = chosen.reshape(-1, num_groups)
    return GroupedInt4Weight(q, multipliers, scale, group_size)


def dequantize_grouped_int4(weight: GroupedInt4Weight) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, K]`, the values that the quantised rows stand for."""
    return weight.int8_codes().astype(np.float32) * weight.scale[:, np.newaxis]


def _quantize_columns(
    values: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Codes and multipliers of groups that stand in columns.

    Args:
        values: float32 `[group_size, groups]`, at most 120 in magnitude but for a rounding;
            overwritten.

    Returns:
        int8 `[group_size, groups]` and int8 `[groups]`.
    """
    highest, lowest = values.max(axis=0), values.min(axis=0)
    signs = np.where(highest > -lowest, np.float32(-1), np.float32(1))
    values *= signs  # from here on the largest magnitude is negative
    widest = np.ceil(np.maximum(highest, -lowest) / np.float32(-MIN_CODE)).astype(np.int8)
    np.clip(widest, 1, MAX_MULTIPLIER, out=widest)
    best = widest
    least = np.full(widest.shape, np.inf, np.float32)
    scratch = np.empty_like(values), np.empty_like(values)
    for offset in range(NUM_CANDIDATES):
        candidate = np.maximum(widest - np.int8(offset), np.int8(1))
        error = _squared_error(values, candidate, *scratch)
        best = np.where(error < least, candidate, best)
        np.minimum(error, least, out=least)
    codes = _codes(values, best, *scratch)[1].astype(np.int8)
    return codes, best * signs.astype(np.int8)


def _codes(
    values: npt.NDArray[np.float32],
    multipliers: npt.NDArray[np.int8],
    ideal: npt.NDArray[np.float32],
    codes: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Fills and returns the codes before and after rounding, half to even."""
    np.multiply(values, _RECIPROCALS[multipliers - 1], out=ideal)
    np.rint(ideal, out=codes)
    np.maximum(codes, np.float32(MIN_CODE), out=codes)
    np.minimum(codes, np.float32(MAX_CODE), out=codes)
    return ideal, codes


def _squared_error(
    values: npt.NDArray[np.float32],
    multipliers: npt.NDArray[np.int8],
    ideal: npt.NDArray[np.float32],
    codes: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Float32 `[groups]`: the sum over each column of what the codes are off by, squared."""
    _codes(values, multipliers, ideal, codes)
    ideal -= codes
    ideal *= ideal
    half = len(ideal) // 2
    while half:  # in one order whatever the number of columns, which numpy's own sum has not
        ideal[:half] += ideal[half : 2 * half]
        half //= 2
    factor = multipliers.astype(np.float32)
    squared: npt.NDArray[np.float32] = ideal[0] * factor * factor
    return squared
