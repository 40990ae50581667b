# SPDX-License-Identifier: Apache-2.0
"""Codes that formats pack into the words of int32 tensors, lowest bits first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CODES_PER_WORD = 8
"""4-bit codes of one int32."""


def unpack_nibbles(words: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The 4-bit codes of little-endian words: uint8 `[rows, 8 * words]`, each from 0 to 15.

    Args:
        words: int32 `[rows, words]`.
    """
    # A byte holds two codes; going by bytes costs a fraction of shifting words.
    pairs = np.ascontiguousarray(words).view(np.uint8)
    codes = np.empty((*pairs.shape, 2), np.uint8)
    np.bitwise_and(pairs, 0x0F, out=codes[..., 0])
    np.right_shift(pairs, 4, out=codes[..., 1])
    return codes.reshape(len(pairs), -1)


def centred(codes: npt.NDArray[np.uint8], num_bits: int) -> npt.NDArray[np.int8]:
    """Unsigned codes less half of their range, int8: 0 to 15 becomes -8 to 7."""
    half = np.uint8(1 << (num_bits - 1))
    return (codes - half).view(np.int8)  # wraps around, as two's complement wants it


def words_of(interval: tuple[int, int], per_word: int = CODES_PER_WORD) -> tuple[slice, slice]:
    """The words that hold an interval of codes, and where among their codes it lies."""
    begin, end = interval
    first = begin // per_word
    inside = slice(begin - first * per_word, end - first * per_word)
    return slice(first, -(-end // per_word)), inside
