# SPDX-License-Identifier: Apache-2.0
"""Sizes that decode steps are padded to, so that few recordings serve every step."""

from __future__ import annotations

from bisect import bisect_left

SMALL = (1, 2, 4, 8)
STEPS_PER_OCTAVE = 2


def token_buckets(limit: int) -> tuple[int, ...]:
    """The sizes for up to `limit` tokens: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, ..., `limit`.

    Two per power of two from 16 on: a step is padded by less than half of its tokens.
    """
    buckets = [size for size in SMALL if size < limit]
    size = 2 * SMALL[-1]
    while size < limit:
        buckets += [half for half in (size, size * 3 // STEPS_PER_OCTAVE) if half < limit]
        size *= 2
    return (*buckets, limit)


def bucket_for(count: int, buckets: tuple[int, ...]) -> int:
    """The smallest of the sorted `buckets` that is at least `count`, which the last one is."""
    return buckets[bisect_left(buckets, count)]


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`, and at least 1."""
    return 1 << max(0, count - 1).bit_length()
