# SPDX-License-Identifier: Apache-2.0
"""How large the steps of an executor can become: what its memory and its buckets follow from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from ..executor import Limits
from .attention_work import AttentionCut
from .buckets import power_of_two, token_buckets
from .image import RankImage
from .staging import StagingCapacity, StagingLayout

DECODE, GENERAL = 0, 1
"""Kinds of step, each with staged arrays of its own: those of decode steps are small."""


@dataclass(frozen=True)
class RowLimits:
    """Rows that values have room for."""

    tokens: int
    logits: int

    def of(self, rows: str) -> int:
        """For values of "tokens" or "logits"."""
        return self.tokens if rows == "tokens" else self.logits


@dataclass(frozen=True)
class StepSizes:
    """Bounds of a step."""

    rows: RowLimits
    num_blocks: int
    """Of the KV cache."""
    cuts: tuple[AttentionCut, ...]
    """How attention is cut, for each sliding window of the program."""
    max_decode_items: tuple[int, ...]
    """Work items of tokens that are cut along their context, for each cut."""
    buckets: tuple[int, ...]
    """Sizes that decode steps are padded to."""
    layouts: tuple[StagingLayout, StagingLayout]
    """Of the arrays of DECODE and GENERAL steps."""

    @property
    def num_partials(self) -> int:
        """Unmerged results of attention at most."""
        return max(self.max_decode_items, default=0)

    @property
    def max_samples(self) -> int:
        """Tokens that are drawn at most."""
        return max(layout.capacity.samples for layout in self.layouts)

    def with_buckets(self, buckets: tuple[int, ...]) -> Self:
        """The same with other sizes that decode steps are padded to."""
        return replace(self, buckets=buckets)

    @classmethod
    def of(
        cls, image: RankImage, limits: Limits, cuts: tuple[AttentionCut, ...], num_blocks: int
    ) -> Self:
        """The bounds under a runtime's limits."""
        batch_size = limits.max_batch_size
        # Sequences that share blocks aside, no more context is there than the KV cache holds.
        held = num_blocks * image.tokens_per_block
        items = tuple(
            min(
                batch_size * cut.max_splits(limits.max_seq_len),
                held // cut.split_tokens + batch_size,
            )
            for cut in cuts
        )
        largest = min(batch_size, limits.max_num_tokens, limits.max_logit_rows)
        width = -(-limits.max_seq_len // limits.tokens_per_block)
        decode = StagingCapacity(
            tokens=largest,
            sequences=largest,
            logit_rows=largest,
            samples=largest,
            table_width=width,
            items=tuple(power_of_two(max(count, largest)) for count in items),
        )
        general = StagingCapacity(
            tokens=limits.max_num_tokens,
            sequences=batch_size,
            logit_rows=limits.max_logit_rows,
            samples=batch_size,
            table_width=width,
            # A sequence's last tile of queries may be a part of one.
            items=tuple(
                max(count, batch_size)
                + -(-limits.max_num_tokens // cut.queries_per_item)
                + batch_size
                for count, cut in zip(items, cuts, strict=True)
            ),
        )
        return cls(
            rows=RowLimits(limits.max_num_tokens, limits.max_logit_rows),
            num_blocks=num_blocks,
            cuts=cuts,
            max_decode_items=items,
            buckets=token_buckets(largest),
            layouts=(StagingLayout(decode), StagingLayout(general)),
        )
