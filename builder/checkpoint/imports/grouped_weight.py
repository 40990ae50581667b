# SPDX-License-Identifier: Apache-2.0
"""What the stored weights of all formats have in common: reading, and doubting what was read."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.imports.stored_weight import (
    Codes,
    FloatArray,
    Interval,
    RawTensors,
    StoredWeight,
)
from enginery.builder.errors import CheckpointError, Problem
from enginery.quantization import e4m3_to_float32


@dataclass(frozen=True)
class Parts:
    """The names of the tensors that a weight is read from.

    Attributes:
        codes: the codes.
        scale: their scales.
        zero_point: their zero points, or None.
        group_index: the group of each column, where groups are not of consecutive columns.
        others: those that need not be read again.
    """

    codes: str
    scale: str
    zero_point: str | None = None
    group_index: str | None = None
    others: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All of them."""
        named = (self.codes, self.scale, self.zero_point, self.group_index, *self.others)
        return tuple(name for name in named if name is not None)


def damaged(name: str, message: str, fix: str) -> CheckpointError:
    """An error about the values of one tensor."""
    return CheckpointError("checkpoint", [Problem(name, message, fix)])


class GroupedWeight(StoredWeight):
    """A weight in groups of columns; a format says how to read each of its parts.

    A subclass reads rectangles; this class checks what came and puts it together. A weight that was
    declared to have no zero points although a tensor gives some is refused when one is not 0.
    """

    def __init__(
        self,
        raw: RawTensors,
        parts: Parts,
        dtype: str,
        shape: tuple[int, int],
        group_size: int,
        *,
        has_zero_points: bool = False,
    ) -> None:
        super().__init__(
            dtype,
            shape,
            min(group_size, shape[1]),
            parts.names(),
            has_zero_points=has_zero_points,
        )
        self.raw = raw
        self.parts = parts
        self.is_ordered = parts.group_index is None

    @abstractmethod
    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        """int8, or E4M3 bit patterns uint8, `[N, K]` of the rectangle."""

    @abstractmethod
    def read_scale(self, rows: Interval, groups: Interval) -> FloatArray:
        """float32 `[N, groups]`; raises CheckpointError where one is not finite."""

    @abstractmethod
    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """int8 `[N, groups]`; called only where there is a tensor of them."""

    def codes(self, rows: Interval, columns: Interval) -> Codes:
        """See `StoredWeight`; where a row has one group, `columns` may begin anywhere.

        Raises:
            CheckpointError: a scale is not finite, a code is a NaN, or zero points are not what the
                configuration says.
        """
        assert self.is_ordered
        groups = (columns[0] // self.group_size, -(-columns[1] // self.group_size))
        return Codes(
            self._checked_codes(rows, columns),
            self.read_scale(rows, groups),
            self._checked_zero_point(rows, groups),
            self.group_size,
        )

    def float32(self, rows: Interval, columns: Interval) -> FloatArray:
        """See `StoredWeight`.

        Raises:
            CheckpointError: as `codes`.
        """
        if self.is_ordered:
            return super().float32(rows, columns)
        assert self.parts.group_index is not None
        group = self.raw.read(self.parts.group_index)[slice(*columns)]
        groups = (0, -(-self.shape[1] // self.group_size))
        codes = self._checked_codes(rows, columns)
        values = e4m3_to_float32(codes) if codes.dtype == np.uint8 else codes.astype(np.float32)
        zero_point = self._checked_zero_point(rows, groups)
        if zero_point is not None:
            values -= zero_point[:, group]
        values *= self.read_scale(rows, groups)[:, group]
        return values

    def _checked_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        codes = self.read_codes(rows, columns)
        if codes.dtype == np.uint8 and ((codes & 0x7F) == 0x7F).any():
            raise damaged(self.parts.codes, "holds a NaN", "the file is damaged")
        return codes

    def _checked_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8] | None:
        if self.parts.zero_point is None:
            return None
        zero_point = self.read_zero_point(rows, groups)
        if self.has_zero_points:
            return zero_point
        if zero_point.any():
            raise damaged(
                self.parts.zero_point,
                "holds zero points, though config.json says that the codes are symmetric",
                "correct quantization_config: sym, zero_point or symmetric says which they are",
            )
        return None
