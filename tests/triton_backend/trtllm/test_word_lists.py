# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import numpy as np
import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.triton_backend.trtllm.word_lists import read_word_list, write_word_lists


def test_layout() -> None:
    array = write_word_lists([[[5], [6, 7]], [[9, 8, 7, 6]]])
    assert array.dtype == np.int32
    assert array.tolist() == [
        [[5, 6, 7, 0], [1, 3, -1, -1]],
        [[9, 8, 7, 6], [4, -1, -1, -1]],
    ]


def test_words_without_tokens_are_left_out() -> None:
    assert write_word_lists([[[], [3], []]]).tolist() == [[[3], [1]]]


def test_a_list_without_words_has_one_place() -> None:
    array = write_word_lists([[[]], []])
    assert array.tolist() == [[[0], [-1]], [[0], [-1]]]
    assert read_word_list("words", array[0]) == []


def test_empty() -> None:
    assert read_word_list("words", np.empty((2, 0), np.int32)) == []


def test_round_trip() -> None:
    draw = random.Random(3)
    for _ in range(200):
        lists = [
            [[draw.randrange(320) for _ in range(draw.randint(1, 5))] for _ in range(count)]
            for count in draw.choices(range(5), k=3)
        ]
        array = write_word_lists(lists)
        assert [read_word_list("words", row) for row in array] == lists


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        ([1, 2, 3], "has shape [3]; must be [2, n]"),
        ([[1, 2, 3]], "has shape [1, 3]; must be [2, n]"),
        ([[1, 2], [2, 2]], "ends [2, 2]: must grow"),
        ([[1, 2], [3, -1]], "ends [3, -1]: must grow, from 1 at least to 2 at most"),
        ([[1, 2], [0, 1]], "ends [0, 1]: must grow"),
        ([[1, 2], [-2, 1]], "ends [-2, 1]: must grow"),
        ([[1, 2], [-1, 1]], "ends [-1, 1]: only padding may follow a -1"),
    ],
)
def test_hostile(array: list[list[int]], reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        read_word_list("stop_words_list", np.array(array, np.int32))
    assert f"stop_words_list: {reason}" in str(raised.value)
