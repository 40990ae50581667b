# SPDX-License-Identifier: Apache-2.0
"""What metrics are made of: the runtime's statistics and what its events said, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from enginery.runtime.runtime import Iteration, Stats


class Distribution:
    """What a histogram has seen.

    Args:
        bounds: of its buckets, increasing; a bucket holds its own bound.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One per bucket and one for what is beyond them; not cumulative."""
        self.sum = 0.0

    def num_up_to(self, bucket: int) -> int:
        """How many values are in this bucket and those below it."""
        return sum(self.counts[: bucket + 1])

    def copy(self) -> Distribution:
        """One that nobody else changes."""
        other = Distribution(self.bounds)
        other.counts, other.sum = self.counts.copy(), self.sum
        return other


@dataclass
class Observed:
    """What the events of requests said, since the start."""

    histograms: dict[str, Distribution]
    """By the name of the family."""
    finish_reasons: dict[str, int]
    errors: dict[str, int]

    def copy(self) -> Observed:
        """One that nobody else changes."""
        histograms = {name: each.copy() for name, each in self.histograms.items()}
        return Observed(histograms, self.finish_reasons.copy(), self.errors.copy())


class Limits(NamedTuple):
    """What does not change while the runtime runs."""

    max_batch_size: int
    tokens_per_block: int
    memory_type: str
    """Whose memory the executor works in: "cpu" or "gpu"."""


@dataclass
class Reading:
    """All that the metrics of one moment are made of."""

    stats: Stats
    step: Iteration | None
    """The last one; None when nothing is running."""
    limits: Limits
    observed: Observed
    read_at: float
    """Unix seconds, taken before everything else."""

    @property
    def memory_bytes(self) -> int:
        """Of the KV cache and the workspace."""
        return self.stats.num_blocks * self.stats.block_bytes + self.stats.workspace_bytes

    @property
    def num_used_blocks(self) -> int:
        """KV blocks of sequences in flight."""
        return self.stats.num_blocks - self.stats.num_free_blocks
