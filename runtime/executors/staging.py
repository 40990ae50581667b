# SPDX-License-Identifier: Apache-2.0
"""The arrays that a step brings to the device, at fixed offsets of one buffer.

Fixed, because a recorded step (a CUDA graph) reads them where they were when it was recorded. One
copy takes them over; the block tables stand last, so that it ends with the last one used.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ..batch import SAMPLE_DTYPE, SAMPLE_HOST_ONLY, ScheduledBatch
from ..errors import InvalidArgumentError
from .attention_work import MERGE_FIELDS, NUM_QUERY, WORK_FIELDS
from .device import ALIGNMENT, Staging, View

SAMPLE_WORDS = SAMPLE_DTYPE.itemsize // 4


@dataclass(frozen=True)
class StagingCapacity:
    """Room of the arrays."""

    tokens: int
    sequences: int
    logit_rows: int
    samples: int
    table_width: int
    """Blocks of the longest sequence."""
    items: tuple[int, ...]
    """Work items, for each way in which attention is cut."""


@dataclass(frozen=True)
class Region:
    """Where an array stands."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


class StagingLayout:
    """Offsets of the arrays for a capacity.

    Args:
        capacity: room of the arrays.

    Attributes:
        num_bytes: of all.
    """

    def __init__(self, capacity: StagingCapacity) -> None:
        self.capacity = capacity
        self.regions: dict[str, Region] = {}
        self.num_bytes = 0
        tokens, sequences = capacity.tokens, capacity.sequences
        self._place("token_ids", "i32", tokens)
        self._place("positions", "i32", tokens)
        self._place("slot_mapping", "i64", tokens)
        self._place("context_lens", "i32", sequences)
        self._place("logit_rows", "i32", capacity.logit_rows)
        self._place("samples", "i32", capacity.samples, SAMPLE_WORDS)
        for index, items in enumerate(capacity.items):
            self._place(f"merge{index}", "i32", tokens, len(MERGE_FIELDS))
            self._place(f"work{index}", "i32", items, len(WORK_FIELDS))
        self._place("block_tables", "i32", sequences, capacity.table_width)

    def _place(self, name: str, dtype: str, *shape: int) -> None:
        self.regions[name] = Region(self.num_bytes, dtype, shape)
        size = prod(shape) * (8 if dtype == "i64" else 4)
        self.num_bytes += -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class StepShape:
    """Sizes of a step as it is run, padding included; equal shapes queue equal work."""

    tokens: int
    logit_rows: int
    samples: int
    is_prefill: bool
    """Whether some work item has several queries."""
    attention: tuple[tuple[int, int], ...]
    """(items, merges) of each cut."""


class StagedArrays:
    """The arrays of one rank: on the host to be written, on the device as views.

    Attributes:
        token_ids, positions: int32 [tokens].
        slot_mapping: int64 [tokens]; -1: the token is padding and nothing is kept of it.
        context_lens: int32 [sequences].
        logit_rows: int32 [logit_rows].
        samples: `SAMPLE_DTYPE` [samples].
        merges: int32 [tokens, 4] for each cut.
        works: int32 [items, 8] for each cut.
        block_tables: int32 [sequences, table_width].
        indices: int64 [sequences], 0, 1, ...; stays on the host.
    """

    def __init__(self, layout: StagingLayout, staging: Staging) -> None:
        self._regions = layout.regions
        self._staging = staging
        num_cuts = len(layout.capacity.items)
        self.token_ids = self._host("token_ids")
        self.positions = self._host("positions")
        self.slot_mapping = self._host("slot_mapping")
        self.context_lens = self._host("context_lens")
        self.logit_rows = self._host("logit_rows")
        self.samples: npt.NDArray[Any] = self._host("samples").view(SAMPLE_DTYPE)[:, 0]
        self.merges = [self._host(f"merge{index}") for index in range(num_cuts)]
        self.works = [self._host(f"work{index}") for index in range(num_cuts)]
        self.block_tables = self._host("block_tables")
        self.indices = np.arange(layout.capacity.sequences)
        self._tables_begin = self._regions["block_tables"].offset
        self._table_bytes = self.block_tables.strides[0]

    def view(self, name: str) -> View:
        """The device's copy of an array; `merge0` and `work0` are those of the first cut."""
        region = self._regions[name]
        return View(self._staging.buffer, region.offset, region.dtype, region.shape)

    def write(self, batch: ScheduledBatch, shape: StepShape) -> int:
        """Writes all but works and merges, padded to `shape`; returns the bytes to commit.

        Raises:
            InvalidArgumentError: the batch is wider than the limits that the arrays are made for.
        """
        tokens, sequences = batch.num_tokens, batch.num_sequences
        rows, samples = len(batch.logit_rows), len(batch.samples)
        width = batch.block_tables.shape[1]
        if width > self.block_tables.shape[1]:
            raise InvalidArgumentError(
                f"batch: block_table_width = {width}: sequences have at most "
                f"{self.block_tables.shape[1]} blocks"
            )
        self.token_ids[:tokens] = batch.token_ids
        self.positions[:tokens] = batch.positions
        self.slot_mapping[:tokens] = batch.slot_mapping
        self.context_lens[:sequences] = batch.context_lens
        self.logit_rows[:rows] = batch.logit_rows
        self.samples[:samples] = batch.samples
        self.block_tables[:sequences, :width] = batch.block_tables
        if tokens < shape.tokens:
            self.token_ids[tokens : shape.tokens] = 0
            self.positions[tokens : shape.tokens] = 0
            self.slot_mapping[tokens : shape.tokens] = -1
        if rows < shape.logit_rows:
            self.logit_rows[rows : shape.logit_rows] = 0
        if samples < shape.samples:
            padding = self.samples[samples : shape.samples]
            padding["logit_row"] = 0
            padding["flags"] = SAMPLE_HOST_ONLY
        return self._tables_begin + sequences * self._table_bytes

    def pad_attention(self, cut: int, used: tuple[int, int], padded: tuple[int, int]) -> None:
        """Makes the items and merges from `used` to `padded` do nothing."""
        if used[0] < padded[0]:
            self.works[cut][used[0] : padded[0], NUM_QUERY] = 0
        if used[1] < padded[1]:
            self.merges[cut][used[1] : padded[1]] = 0

    def copy_from(self, other: StagedArrays, num_bytes: int) -> None:
        """Takes over what another rank's arrays hold."""
        np.copyto(self._staging.host[:num_bytes], other._staging.host[:num_bytes])

    def commit(self, num_bytes: int) -> None:
        """Queues the copy to the device."""
        self._staging.commit(num_bytes)

    def _host(self, name: str) -> npt.NDArray[Any]:
        region = self._regions[name]
        dtype = np.dtype(np.int64 if region.dtype == "i64" else np.int32)
        end = region.offset + prod(region.shape) * dtype.itemsize
        return self._staging.host[region.offset : end].view(dtype).reshape(region.shape)
