# SPDX-License-Identifier: Apache-2.0
"""The shares of all ranks, put together again, are the weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.builder.checkpoint.config import read_config
from enginery.builder.errors import OptionError
from enginery.builder.network.weight import Weight, stack, whole
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import check_shardable, column_share, row_share
from tests.support.checkpoints import write_tiny_checkpoint

IntArray = npt.NDArray[np.int64]


def read(weight: Weight, tensors: dict[str, IntArray]) -> IntArray:
    """What a weight refers to, part by part, without the code under test."""
    parts = []
    for part in weight.parts:
        rows = tensors[part.tensor][part.rows[0] : part.rows[1]]
        parts.append(rows if part.columns is None else rows[:, part.columns[0] : part.columns[1]])
    return np.concatenate(parts)


@st.composite
def stacked(draw: st.DrawFn) -> tuple[int, Weight, dict[str, IntArray]]:
    """(tp_size, a weight of stacked tensors that so many ranks can share, the tensors)."""
    tp_size = draw(st.sampled_from([1, 2, 3, 5]))
    width = draw(st.integers(1, 4)) * tp_size
    heights = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    tensors = {}
    for index, height in enumerate(heights):
        shape = (height * tp_size, width)
        tensors[f"t{index}"] = np.arange(np.prod(shape)).reshape(shape) + 1000 * index
    weights = [whole(name, tensor.shape) for name, tensor in tensors.items()]
    return tp_size, stack("w", weights), tensors


@given(stacked())
@settings(deadline=None)
def test_column_shares_put_together_part_by_part_are_the_weight(
    case: tuple[int, Weight, dict[str, IntArray]],
) -> None:
    tp_size, weight, tensors = case
    shares = [column_share(weight, Mapping(tp_size, rank)) for rank in range(tp_size)]
    assert len({share.shape for share in shares}) == 1
    rebuilt = []
    for index, (name, tensor) in enumerate(tensors.items()):
        parts = [share.parts[index] for share in shares]
        assert {part.tensor for part in parts} == {name}
        rebuilt.append(np.concatenate([read(Weight("", (part,)), tensors) for part in parts]))
        assert np.array_equal(rebuilt[-1], tensor)
    assert np.array_equal(np.concatenate(rebuilt), read(weight, tensors))


@given(stacked())
@settings(deadline=None)
def test_row_shares_side_by_side_are_the_weight(
    case: tuple[int, Weight, dict[str, IntArray]],
) -> None:
    tp_size, weight, tensors = case
    shares = [row_share(weight, Mapping(tp_size, rank)) for rank in range(tp_size)]
    side_by_side = np.concatenate([read(share, tensors) for share in shares], axis=1)
    assert np.array_equal(side_by_side, read(weight, tensors))


@given(stacked(), st.data())
@settings(deadline=None)
def test_rows_and_columns_slice_as_numpy_does(
    case: tuple[int, Weight, dict[str, IntArray]], data: st.DataObject
) -> None:
    _, weight, tensors = case
    whole_array = read(weight, tensors)
    begin = data.draw(st.integers(0, weight.shape[0] - 1))
    end = data.draw(st.integers(begin + 1, weight.shape[0]))
    left = data.draw(st.integers(0, weight.shape[1] - 1))
    right = data.draw(st.integers(left + 1, weight.shape[1]))
    part = weight.rows(begin, end).columns(left, right)
    assert part.shape == (end - begin, right - left)
    assert np.array_equal(read(part, tensors), whole_array[begin:end, left:right])


def test_a_number_of_ranks_that_does_not_divide_the_heads(tmp_path: Path) -> None:
    config = read_config(write_tiny_checkpoint(tmp_path, "llama", intermediate_size=258))
    with pytest.raises(OptionError) as error:
        check_shardable(config, 4)
    assert [str(problem) for problem in error.value.problems] == [
        "tp_size: 4 does not divide num_key_value_heads 2",
        "tp_size: 4 does not divide intermediate_size 258 (the model takes [1, 2])",
    ]
    check_shardable(config, 2)
