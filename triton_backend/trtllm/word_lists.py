# SPDX-License-Identifier: Apache-2.0
"""TensorRT-LLM's way to put lists of words into a tensor.

int32 [2, n] for a list: in row 0 the tokens of all words one after the other, padded with 0; in
row 1 where each word ends, padded with -1. [[5, 6, 7], [1, 3, -1]] are the words [5] and [6, 7].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from enginery.runtime.errors import InvalidArgumentError


def write_word_lists(word_lists: Sequence[Sequence[Sequence[int]]]) -> npt.NDArray[np.int32]:
    """Words of every row of a batch as int32 [rows, 2, n].

    Args:
        word_lists: per row, per word, its tokens; a word without tokens is left out.
    """
    rows = [[word for word in words if word] for words in word_lists]
    width = max([1, *(sum(map(len, words)) for words in rows)])
    array = np.zeros((len(rows), 2, width), np.int32)
    array[:, 1] = -1
    for row, words in zip(array, rows, strict=True):
        tokens = [token for word in words for token in word]
        row[0, : len(tokens)] = tokens
        row[1, : len(words)] = np.cumsum([len(word) for word in words], dtype=np.int32)
    return array


def read_word_list(name: str, array: npt.NDArray[np.int32]) -> list[list[int]]:
    """The words of one row.

    Args:
        name: of the input, for errors.
        array: int32 [2, n].

    Raises:
        InvalidArgumentError: the ends do not grow, lie outside or come after padding.
    """
    if array.ndim != 2 or array.shape[0] != 2:
        raise InvalidArgumentError(f"{name}: has shape {list(array.shape)}; must be [2, n]")
    tokens, ends = array.tolist()
    words: list[list[int]] = []
    begin = 0
    for position, end in enumerate(ends):
        if end == -1:
            if any(later != -1 for later in ends[position:]):
                raise InvalidArgumentError(f"{name}: ends {ends}: only padding may follow a -1")
            break
        if not begin < end <= len(tokens):
            raise InvalidArgumentError(
                f"{name}: ends {ends}: must grow, from 1 at least to {len(tokens)} at most"
            )
        words.append(tokens[begin:end])
        begin = end
    return words
