# SPDX-License-Identifier: Apache-2.0
"""A rank's place among the ranks that share a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mapping:
    """Place of one rank.

    Attributes:
        tp_size: number of ranks that share each layer.
        tp_rank: this rank, in [0, tp_size).
    """

    tp_size: int = 1
    tp_rank: int = 0

    def __post_init__(self) -> None:
        assert 0 <= self.tp_rank < self.tp_size

    def interval(self, size: int) -> tuple[int, int]:
        """This rank's equal share of `size` items, half open; tp_size must divide `size`."""
        assert size % self.tp_size == 0, f"{self.tp_size} ranks cannot share {size} items"
        share = size // self.tp_size
        return self.tp_rank * share, (self.tp_rank + 1) * share
