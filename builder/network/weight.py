# SPDX-License-Identifier: Apache-2.0
"""Weights of a network: references into a checkpoint, read only when they are packed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """How the codes of a weight of dtype "i4" are scaled.

    Attributes:
        size: columns that share a scale.
        product_dtype: dtype of a code times that scale, where the row has a scale besides; None
            where it has none. See `enginery.quantization.Scheme`.
    """

    size: int
    product_dtype: str | None = None


@dataclass(frozen=True)
class WeightPart:
    """A rectangle of one checkpoint tensor.

    Attributes:
        tensor: its name in the checkpoint.
        rows: half-open interval of dimension 0.
        columns: half-open interval of dimension 1; None for a tensor of rank 1.
        factor: a checkpoint tensor of as many elements as `tensor` has rows, which multiply them;
            None: nothing does.
    """

    tensor: str
    rows: tuple[int, int]
    columns: tuple[int, int] | None
    factor: str | None = None

    @property
    def num_rows(self) -> int:
        """Length of the interval of rows."""
        return self.rows[1] - self.rows[0]


@dataclass(frozen=True)
class Weight:
    """A constant of the network: parts stacked along dimension 0.

    Two nodes that hold equal weights share one packed tensor.

    Attributes:
        name: its name in the engine, close to its parts' names in the checkpoint.
        parts: at least one, all of the same width.
        dtype: dtype in which it is stored: "f32", "bf16", "f16", or codes with scales: "i8" and
            "f8e4m3" (per row), "i4" (per block of a row).
        blocks: of "i4" and of zero terms; None of all others.
        is_zero_terms: whether it is not the tensor's values but -zero_point * scale of its blocks,
            which are then what `columns` counts.
    """

    name: str
    parts: tuple[WeightPart, ...]
    dtype: str = "f32"
    blocks: Blocks | None = None
    is_zero_terms: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N]` or `[N, K]`."""
        num_rows = sum(part.num_rows for part in self.parts)
        columns = self.parts[0].columns
        return (num_rows,) if columns is None else (num_rows, columns[1] - columns[0])

    def rows(self, begin: int, end: int) -> Weight:
        """The rows [begin, end) of this weight, under the same name."""
        parts: list[WeightPart] = []
        position = 0
        for part in self.parts:
            first = max(begin - position, 0)
            last = min(end - position, part.num_rows)
            if first < last:
                rows = (part.rows[0] + first, part.rows[0] + last)
                parts.append(dataclasses.replace(part, rows=rows))
            position += part.num_rows
        return dataclasses.replace(self, parts=tuple(parts))

    def columns(self, begin: int, end: int) -> Weight:
        """The columns [begin, end) of this weight of rank 2, under the same name."""
        parts = []
        for part in self.parts:
            assert part.columns is not None
            start = part.columns[0]
            parts.append(dataclasses.replace(part, columns=(start + begin, start + end)))
        return dataclasses.replace(self, parts=tuple(parts))

    def times(self, factor: str) -> Weight:
        """This weight, of one part, with its rows multiplied by a checkpoint tensor."""
        (part,) = self.parts
        assert part.factor is None
        return dataclasses.replace(self, parts=(dataclasses.replace(part, factor=factor),))

    def stored_as(self, dtype: str, blocks: Blocks | None = None) -> Weight:
        """This weight with another storage dtype; "i4" takes blocks."""
        return dataclasses.replace(self, dtype=dtype, blocks=blocks)


def whole(tensor: str, shape: tuple[int, ...]) -> Weight:
    """A weight that is one checkpoint tensor of rank 1 or 2, all of it."""
    columns = (0, shape[1]) if len(shape) == 2 else None
    return Weight(tensor, (WeightPart(tensor, (0, shape[0]), columns),))


def stack(name: str, weights: list[Weight]) -> Weight:
    """Stacks weights of equal width and dtype along dimension 0."""
    return Weight(
        name,
        tuple(part for weight in weights for part in weight.parts),
        weights[0].dtype,
        weights[0].blocks,
    )
