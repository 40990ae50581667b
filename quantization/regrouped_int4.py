# SPDX-License-Identifier: Apache-2.0
"""INT4 codes of another library, with float scales per group, under two levels of scales.

The multiplier of a group is the integer nearest to its scale in fifteenths of the row's largest.
That adds 1 % to 3 % to the error that the codes have already in groups of 128, and 4 % to 8 % in
groups of 32. Quantising their values a second time adds 0 % to 21 % and 5 % to 41 %: most to codes
of the demo's and of Gaussian weights and to those with zero points, least to symmetric ones with
long tails.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.quantization.grouped_int4 import (
    MAX_CODE,
    MAX_MULTIPLIER,
    MIN_CODE,
    GroupedInt4Weight,
)


class TwoLevels(NamedTuple):
    """Scales of groups as multipliers of one scale per row.

    Attributes:
        multipliers: int8 `[N, groups]`, of magnitude 1..15.
        scale: float32 `[N]`, above zero.
    """

    multipliers: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]

    def group_scale(self) -> npt.NDArray[np.float32]:
        """Returns float32 `[N, groups]`, the scales that they come to."""
        return self.multipliers * self.scale[:, np.newaxis]


def two_levels(scale: npt.NDArray[np.float32], largest: npt.NDArray[np.float32]) -> TwoLevels:
    """Rounds scales of groups to multiples of a fifteenth of their row's largest.

    Args:
        scale: finite float32 `[N, groups]`.
        largest: float32 `[N]`, the largest magnitude among the scales of each whole row.
    """
    unit = np.maximum(largest / np.float32(MAX_MULTIPLIER), np.finfo(np.float32).tiny)
    magnitudes = np.rint(np.abs(scale) / unit[:, np.newaxis]).clip(1, MAX_MULTIPLIER)
    return TwoLevels(np.copysign(magnitudes, scale).astype(np.int8), unit)


def regroup_int4(
    codes: npt.NDArray[np.int8],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[np.int8] | None,
    levels: TwoLevels,
) -> GroupedInt4Weight:
    """Keeps codes whose groups have float scales, with two levels of scales instead.

    A code stays what it is but where the rounding of its group's scale moves its value by more than
    half a step: then it becomes the one that is nearest.

    Args:
        codes: int8 `[N, K]`, in -8..7.
        scale: float32 `[N, groups]`, all of as many columns.
        zero_point: int8 `[N, groups]`, in -8..7; None: all 0.
        levels: of `scale`.

    Returns:
        Rows whose codes have the same zero points.
    """
    grouped = codes.reshape(*scale.shape, -1)
    ratio = scale / levels.group_scale()
    zero = np.zeros(scale.shape, np.int8) if zero_point is None else zero_point
    steps = np.subtract(grouped, zero[:, :, np.newaxis], dtype=np.float32)
    steps *= ratio[:, :, np.newaxis]
    np.rint(steps, out=steps)
    steps += zero[:, :, np.newaxis]
    np.clip(steps, MIN_CODE, MAX_CODE, out=steps)
    kept = steps.astype(np.int8).reshape(codes.shape)
    return GroupedInt4Weight(kept, *levels, grouped.shape[2])
