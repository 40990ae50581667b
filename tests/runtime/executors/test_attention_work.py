# SPDX-License-Identifier: Apache-2.0
"""Work items of attention against a naive cut, item by item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginery.runtime.executors.attention_work import AttentionCut, write_decode, write_step

UNLIMITED = 2**31


class Item(NamedTuple):
    sequence: int
    first_query: int
    num_query: int
    kv_begin: int
    kv_end: int
    partial_index: int


class Sequence(NamedTuple):
    num_tokens: int
    num_computed: int

    @property
    def context_len(self) -> int:
        return self.num_computed + self.num_tokens


def naive_step(
    cut: AttentionCut, sequences: list[Sequence]
) -> tuple[list[Item], list[tuple[int, int, int]]]:
    """The items and merges (token, first partial, count), sequence by sequence."""

    def first_seen(position: int) -> int:
        if cut.sliding_window == 0:
            return 0
        seen = max(0, position - cut.sliding_window + 1)
        return seen - seen % cut.split_tokens

    prefill, decode, merges = [], [], []
    token, partial = 0, 0
    for index, sequence in enumerate(sequences):
        if sequence.num_tokens == 1:
            end = sequence.context_len
            begins = list(range(first_seen(end - 1), end, cut.split_tokens))
            for number, begin in enumerate(begins):
                place = -1 if len(begins) == 1 else partial + number
                stop = min(begin + cut.split_tokens, end)
                decode.append(Item(index, token, 1, begin, stop, place))
            if len(begins) > 1:
                merges.append((token, partial, len(begins)))
                partial += len(begins)
        else:
            for first in range(0, sequence.num_tokens, cut.queries_per_item):
                count = min(cut.queries_per_item, sequence.num_tokens - first)
                position = sequence.num_computed + first
                prefill.append(
                    Item(index, token + first, count, first_seen(position), position + count, -1)
                )
        token += sequence.num_tokens
    prefill.sort(key=lambda item: item.kv_begin - item.kv_end)
    return prefill + decode, merges


def run(
    cut: AttentionCut, sequences: list[Sequence], limit: int = UNLIMITED
) -> tuple[list[Item], list[tuple[int, int, int]]]:
    num_tokens = np.array([sequence.num_tokens for sequence in sequences])
    cu_seqlens_q = np.concatenate([[0], np.cumsum(num_tokens)]).astype(np.int32)
    context_lens = np.array([sequence.context_len for sequence in sequences], np.int32)
    room = sum(sequence.context_len for sequence in sequences)
    # Rubbish of an earlier step: whatever is read must have been written.
    work = np.full((room, 8), -7, np.int32)
    merge = np.full((len(sequences), 4), -7, np.int32)
    num_items, num_merges = write_step(cut, cu_seqlens_q, context_lens, work, merge, limit)
    assert (work[:num_items, 6:] == 0).all() and (work[num_items:] == -7).all()
    assert (merge[:num_merges, 3] == 0).all() and (merge[num_merges:] == -7).all()
    items = [Item(*row) for row in work[:num_items, :6].tolist()]
    return items, [(row[0], row[1], row[2]) for row in merge[:num_merges].tolist()]


cuts = st.builds(
    AttentionCut,
    sliding_window=st.sampled_from([0, 1, 2, 15, 16, 17, 40]),
    split_tokens=st.sampled_from([16, 32, 48]),
    queries_per_item=st.sampled_from([1, 2, 7, 16]),
)
steps = st.lists(
    st.builds(
        Sequence,
        num_tokens=st.one_of(st.just(1), st.integers(1, 40)),
        num_computed=st.one_of(st.just(0), st.integers(0, 200)),
    ),
    min_size=1,
    max_size=6,
)


@given(cuts, steps)
def test_items_are_those_of_the_naive_cut(cut: AttentionCut, sequences: list[Sequence]) -> None:
    assert run(cut, sequences) == naive_step(cut, sequences)


@given(cuts, steps)
def test_every_query_sees_every_key_once(cut: AttentionCut, sequences: list[Sequence]) -> None:
    items, merges = run(cut, sequences)
    seen: dict[int, list[int]] = {}
    for item in items:
        assert 1 <= item.num_query <= cut.queries_per_item or item.num_query == 1
        assert item.kv_begin % cut.split_tokens == 0
        for query in range(item.num_query):
            walked = seen.setdefault(item.first_query + query, [])
            walked.extend(range(item.kv_begin, item.kv_end))
    token = 0
    for sequence in sequences:
        for position in range(sequence.num_computed, sequence.context_len):
            keys = seen[token]
            assert len(set(keys)) == len(keys)
            oldest = max(0, position - cut.sliding_window + 1) if cut.sliding_window else 0
            assert set(range(oldest, position + 1)) <= set(keys)
            token += 1
    # Partials are numbered without gaps, and each is merged once.
    partials = sorted(item.partial_index for item in items if item.partial_index >= 0)
    merged = [first + i for _, first, count in merges for i in range(count)]
    assert partials == merged == list(range(len(merged)))


@given(cuts, steps)
def test_capacity_covers_every_decode(cut: AttentionCut, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        items, _ = run(cut, [Sequence(1, sequence.context_len - 1)])
        assert len(items) <= cut.max_splits(sequence.context_len)


@given(cuts, steps, st.integers(1, 12))
def test_decode_keeps_to_its_limit(
    cut: AttentionCut, sequences: list[Sequence], limit: int
) -> None:
    decodes = [Sequence(1, sequence.context_len - 1) for sequence in sequences]
    items, merges = run(cut, decodes, limit)
    assert len(items) <= max(limit, len(decodes))
    split = cut.split_tokens
    while len(naive_step(coarser := AttentionCut(cut.sliding_window, split, 1), decodes)[0]) > max(
        limit, len(decodes)
    ):
        split *= 2
    assert (items, merges) == naive_step(coarser, decodes)


def test_a_decode_is_cut_alike_alone_and_in_company() -> None:
    cut = AttentionCut(sliding_window=0, split_tokens=16, queries_per_item=4)
    alone, _ = run(cut, [Sequence(1, 70)])
    beside, _ = run(cut, [Sequence(9, 3), Sequence(1, 70), Sequence(1, 500)])
    ranges = [(item.kv_begin, item.kv_end) for item in beside if item.sequence == 1]
    assert ranges == [(item.kv_begin, item.kv_end) for item in alone]


def test_longest_prefill_items_come_first() -> None:
    cut = AttentionCut(sliding_window=0, split_tokens=16, queries_per_item=4)
    items, _ = run(cut, [Sequence(8, 0), Sequence(6, 50), Sequence(1, 300)])
    ends = [item.kv_end for item in items if item.num_query > 1]
    assert ends == [56, 54, 8, 4]
    assert items[-1].num_query == 1


@pytest.mark.parametrize("count", [1, 3])
def test_uncut_decodes_are_written_directly(count: int) -> None:
    cut = AttentionCut(sliding_window=0, split_tokens=32, queries_per_item=1)
    work, merge = np.full((8, 8), -7, np.int32), np.full((4, 4), -7, np.int32)
    index = np.arange(count)
    lengths = np.array([32, 1, 17][:count], np.int32)
    assert write_decode(cut, index, index, lengths, work, merge, 8) == (count, 0)
    expected = [[i, i, 1, 0, length, -1, 0, 0] for i, length in enumerate(lengths)]
    assert work[:count].tolist() == expected
