# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import re

import pytest

from enginery.builder.progress import KERNELS, PLANS, UNIT_SECONDS, WEIGHTS
from enginery.cli.build_progress import BuildProgress


class Clock:
    """A clock that the test sets; BuildProgress shows a line every ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def seconds_left(line: str) -> int:
    match = re.search(r"(\d+) s left", line)
    assert match, line
    return int(match[1])


def test_the_time_left_counts_every_stage_and_what_was_measured(clock: Clock) -> None:
    stream = io.StringIO()
    with BuildProgress(stream) as progress:
        progress(WEIGHTS, 0, 4_000_000_000)
        progress(KERNELS, 0, 10)
        progress(PLANS, 0, 4)
        clock.now += 30  # ten times slower than expected
        progress(KERNELS, 3, 10)
        clock.now += 70
        progress(KERNELS, 10, 10)
        clock.now += 2
        progress(PLANS, 4, 4)
        clock.now += 20
        progress(WEIGHTS, 2_000_000_000, 4_000_000_000)
    first, second, third = stream.getvalue().splitlines()
    others = 4 * UNIT_SECONDS[PLANS] + 4e9 * UNIT_SECONDS[WEIGHTS]
    assert first.startswith("compiling kernels: ") and "3 of 10" in first
    assert seconds_left(first) == round(70 + others)
    assert seconds_left(second) == round(others)
    assert third == "packing weights:  86%  2000 of 4000 MB, 20 s left"


def test_what_is_cached_counts_as_done(clock: Clock) -> None:
    stream = io.StringIO()
    with BuildProgress(stream) as progress:
        progress(KERNELS, 30, 40)
        clock.now += 10
        progress(KERNELS, 31, 40)
    (line,) = stream.getvalue().splitlines()
    # The one that was compiled tells what the others take, not the thirty that were there.
    assert "31 of 40" in line and seconds_left(line) == 90
    assert "78%" in line


def test_a_bar_names_the_stage(clock: Clock) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with BuildProgress(stream) as progress:
        progress(KERNELS, 0, 4)
        clock.now += 1
        progress(KERNELS, 2, 4)
    assert "[###############---------------]  50%  2 of 4, 1 s left  compiling kernels" in (
        stream.getvalue()
    )


def test_silence_and_nothing_to_do(clock: Clock) -> None:
    stream = io.StringIO()
    with BuildProgress(stream, is_silent=True) as progress:
        clock.now += 100
        progress(KERNELS, 1, 2)
    assert stream.getvalue() == ""
    with BuildProgress(stream) as progress:
        clock.now += 100
        progress(KERNELS, 0, 0)
    assert "100%" in stream.getvalue()
