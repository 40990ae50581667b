# SPDX-License-Identifier: Apache-2.0
"""Weights whose codes are not packed, with a scale per tensor, row, group or block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.imports.grouped_weight import GroupedWeight, Parts
from enginery.builder.checkpoint.imports.stored_weight import FloatArray, Interval, RawTensors
from enginery.builder.checkpoint.imports.values import read_values


@dataclass(frozen=True)
class Grid:
    """Blocks of a matrix that share a scale.

    Attributes:
        rows, columns: of a block; the last ones may be smaller.
    """

    rows: int
    columns: int

    def counts(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many blocks there are along each dimension."""
        return -(-shape[0] // self.rows), -(-shape[1] // self.columns)

    def shapes(self, shape: tuple[int, int]) -> tuple[tuple[int, ...], ...]:
        """The shapes that a tensor of one value per block may have."""
        counts = self.counts(shape)
        return (counts, (), (1,)) if counts == (1, 1) else (counts,)

    def rows_of(self, per_block: npt.NDArray[Any], rows: Interval) -> npt.NDArray[Any]:
        """Repeats what was read of `blocks(rows)` for each of the rows."""
        if self.rows == 1:
            return per_block
        first = rows[0] // self.rows * self.rows
        return np.repeat(per_block, self.rows, axis=0)[rows[0] - first : rows[1] - first]

    def blocks(self, rows: Interval) -> slice:
        """The blocks, counted along the rows, that hold an interval of them."""
        return slice(rows[0] // self.rows, -(-rows[1] // self.rows))


class PlainWeight(GroupedWeight):
    """A weight of I8 or F8_E4M3 codes `[N, K]` with a grid of scales and perhaps zero points."""

    def __init__(
        self,
        raw: RawTensors,
        parts: Parts,
        dtype: str,
        shape: tuple[int, int],
        grid: Grid,
        *,
        has_zero_points: bool = False,
    ) -> None:
        super().__init__(raw, parts, dtype, shape, grid.columns, has_zero_points=has_zero_points)
        self.grid = Grid(min(grid.rows, shape[0]), self.group_size)

    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        """See `GroupedWeight`."""
        return self.raw.read(self.parts.codes, slice(*rows), slice(*columns))

    def read_scale(self, rows: Interval, groups: Interval) -> FloatArray:
        """See `GroupedWeight`."""
        blocks = self.grid.blocks(rows)
        if len(self.raw.tensors[self.parts.scale].shape) == 0:
            per_block = read_values(self.raw, self.parts.scale).reshape(1, 1)
        elif len(self.raw.tensors[self.parts.scale].shape) == 1:
            per_block = read_values(self.raw, self.parts.scale, blocks).reshape(-1, 1)
        else:
            per_block = read_values(self.raw, self.parts.scale, blocks, slice(*groups))
        return self.grid.rows_of(per_block, rows)

    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """See `GroupedWeight`."""
        assert self.parts.zero_point is not None
        blocks, columns = self.grid.blocks(rows), slice(*groups)
        if len(self.raw.tensors[self.parts.zero_point].shape) < 2:
            per_block = self.raw.read(self.parts.zero_point).reshape(1, 1)
        else:
            per_block = self.raw.read(self.parts.zero_point, blocks, columns)
        return self.grid.rows_of(per_block, rows)
