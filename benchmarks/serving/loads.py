# SPDX-License-Identifier: Apache-2.0
"""The loads that every side is given: how requests come, and which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from enginery.bench.workload import (
    BenchRequest,
    FloatArray,
    Span,
    arrival_times,
    random_requests,
)

SEED = 20261127
INPUT_LEN, OUTPUT_LEN = Span(128, 128), Span(16, 128)
ALONE_OUTPUT_LEN = Span(8, 8)
NUM_ALONE = 40
REQUESTS_PER_USER, MIN_REQUESTS = 3, 12
RATE_SECONDS, MIN_ARRIVALS = 15.0, 16
QUICK_SHARE = 0.25


@dataclass(frozen=True)
class Level:
    """How requests come.

    Attributes:
        kind: "users": a closed loop, each user sends the next request when the last one ended;
            "rate": an open loop, Poisson arrivals; "alone": a user whose requests are short, so
            that there are many first tokens.
        value: users, or requests per second.
    """

    kind: str
    value: float

    @property
    def num_users(self) -> int | None:
        """Requests in flight at most; None: as many as arrive."""
        return None if self.kind == "rate" else int(self.value)

    @property
    def num_ramp(self) -> int:
        """First requests that come all at once because the users begin: they are not counted."""
        return self.num_users or 0

    def __str__(self) -> str:
        return {
            "users": f"{self.value:g} user{'s' if self.value != 1 else ''}",
            "rate": f"{self.value:g} requests/s",
            "alone": "1 request at a time",
        }[self.kind]


@dataclass(frozen=True)
class Load:
    """The requests of a level and when they arrive."""

    level: Level
    requests: Sequence[BenchRequest]
    arrivals: FloatArray
    """Seconds from the start; all 0 in a closed loop."""
    warmup: Sequence[BenchRequest]
    """Sent before and not counted."""


def make_load(level: Level, vocab_size: int, round_index: int, *, quick: bool = False) -> Load:
    """The load of a level: the same one for every side of a round.

    Args:
        level: how requests come.
        vocab_size: token ids are drawn below it.
        round_index: rounds differ in tokens, lengths and arrivals.
        quick: a fraction of the requests, to see that everything answers.
    """
    rng = np.random.default_rng([SEED, round_index])
    count = level.num_ramp + _num_counted(level, QUICK_SHARE if quick else 1.0)
    output_len = ALONE_OUTPUT_LEN if level.kind == "alone" else OUTPUT_LEN
    rate = level.value if level.kind == "rate" else math.inf
    return Load(
        level=level,
        requests=random_requests(count, INPUT_LEN, output_len, vocab_size, rng),
        arrivals=arrival_times(count, rate, 1.0, rng),
        warmup=random_requests(4, Span(16, 16), Span(8, 8), vocab_size, rng),
    )


def _num_counted(level: Level, share: float) -> int:
    if level.kind == "alone":
        return math.ceil(share * NUM_ALONE)
    if level.kind == "rate":
        return math.ceil(share * max(MIN_ARRIVALS, RATE_SECONDS * level.value))
    return math.ceil(share * (MIN_REQUESTS + REQUESTS_PER_USER * level.value))
