# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enginery.runtime.executors.buckets import bucket_for, power_of_two, token_buckets


def test_buckets_of_a_large_batch() -> None:
    assert token_buckets(160) == (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 16, 17, 24, 63, 64, 65, 1000])
def test_buckets_end_at_the_limit_and_waste_little(limit: int) -> None:
    buckets = token_buckets(limit)
    assert list(buckets) == sorted(set(buckets)) and buckets[-1] == limit
    for count in range(1, limit + 1):
        bucket = bucket_for(count, buckets)
        assert count <= bucket < 2 * count + 1
        assert all(smaller < count for smaller in buckets if smaller < bucket)


def test_powers_of_two() -> None:
    assert [power_of_two(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 1023)] == [
        1, 1, 2, 4, 4, 8, 8, 16, 1024,
    ]  # fmt: skip
