# SPDX-License-Identifier: Apache-2.0
"""The arrays of a step: where they lie, what is padded, what is committed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.plugins.emulate.device import EmulatedStaging
from enginery.plugins.emulate.memory import array_of
from enginery.runtime.batch import SAMPLE_DTYPE, SAMPLE_HOST_ONLY
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.executors.device import ALIGNMENT
from enginery.runtime.executors.staging import (
    StagedArrays,
    StagingCapacity,
    StagingLayout,
    StepShape,
)
from tests.support.batches import make_batch

CAPACITY = StagingCapacity(
    tokens=40, sequences=6, logit_rows=9, samples=12, table_width=13, items=(20, 33)
)
NUMPY: dict[str, np.dtype[Any]] = {"i32": np.dtype(np.int32), "i64": np.dtype(np.int64)}


def stage() -> StagedArrays:
    layout = StagingLayout(CAPACITY)
    staging = EmulatedStaging(layout.num_bytes)
    staging.host[:] = 0xA5  # of an earlier step
    return StagedArrays(layout, staging)


def device_array(arrays: StagedArrays, name: str) -> Any:
    view = arrays.view(name)
    return array_of(view, NUMPY[view.dtype])


def test_arrays_are_aligned_and_apart() -> None:
    layout = StagingLayout(CAPACITY)
    end = 0
    for name, region in layout.regions.items():
        assert region.offset % ALIGNMENT == 0 and region.offset >= end, name
        end = region.offset + int(np.prod(region.shape)) * NUMPY[region.dtype].itemsize
    assert end <= layout.num_bytes < end + ALIGNMENT
    assert list(layout.regions)[-1] == "block_tables"


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 180)), min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(1, 2),
)
def test_what_is_committed_is_the_batch_and_padding(
    sequences: list[tuple[int, int]], padding: int, samples_per_sequence: int
) -> None:
    batch = make_batch(sequences, samples_per_sequence=samples_per_sequence, seed=padding)
    arrays = stage()
    tokens, rows, samples = batch.num_tokens, len(batch.logit_rows), len(batch.samples)
    samples_padded = min(samples + padding, CAPACITY.samples)
    shape = StepShape(tokens + padding, rows + padding, samples_padded, False, ())
    arrays.commit(arrays.write(batch, shape))

    def check(name: str, expected: Any, size: int, fill: int) -> None:
        got = device_array(arrays, name)
        assert got[: len(expected)].tolist() == expected.tolist(), name
        assert (got[len(expected) : size] == fill).all(), name

    check("token_ids", batch.token_ids, shape.tokens, 0)
    check("positions", batch.positions, shape.tokens, 0)
    check("slot_mapping", batch.slot_mapping, shape.tokens, -1)
    check("logit_rows", batch.logit_rows, shape.logit_rows, 0)
    check("context_lens", batch.context_lens, len(sequences), 0)
    width = batch.block_tables.shape[1]
    tables = device_array(arrays, "block_tables")
    assert tables[: len(sequences), :width].tolist() == batch.block_tables.tolist()
    records = device_array(arrays, "samples").view(SAMPLE_DTYPE)[:, 0]
    assert records[:samples].tolist() == batch.samples.tolist()
    assert (records["flags"][samples:samples_padded] == SAMPLE_HOST_ONLY).all()
    assert (records["logit_row"][samples:samples_padded] == 0).all()


def test_nothing_arrives_uncommitted() -> None:
    arrays = stage()
    batch = make_batch([(1, 3), (1, 30)])
    num_bytes = arrays.write(batch, StepShape(2, 2, 2, False, ()))
    assert not device_array(arrays, "token_ids").any()
    arrays.commit(num_bytes)
    assert device_array(arrays, "token_ids")[:2].tolist() == batch.token_ids.tolist()
    # The tables of further sequences stay behind.
    assert not device_array(arrays, "block_tables")[2:].any()


def test_padded_work_does_nothing() -> None:
    arrays = stage()
    arrays.works[1][:3, 2] = 5
    arrays.merges[1][:1] = 9
    arrays.pad_attention(1, (3, 1), (8, 4))
    assert arrays.works[1][:8, 2].tolist() == [5, 5, 5, 0, 0, 0, 0, 0]
    assert (arrays.merges[1][0] == 9).all() and not arrays.merges[1][1:4].any()


def test_a_batch_wider_than_the_limits_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"block_table_width = 14.*at most 13"):
        stage().write(make_batch([(1, 13 * 16)]), StepShape(1, 1, 1, False, ()))


def test_ranks_get_the_same_arrays() -> None:
    first, second = stage(), stage()
    num_bytes = first.write(make_batch([(3, 5)]), StepShape(3, 1, 1, True, ()))
    second.copy_from(first, num_bytes)
    second.commit(num_bytes)
    np.testing.assert_array_equal(device_array(second, "token_ids")[:3], first.token_ids[:3])
