# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import pytest

from enginery.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


def test_a_bar_on_a_terminal_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    with Progress(stream) as progress:
        clock.now += 0.05
        progress.update(1, 100)
        assert stream.getvalue() == "", "not yet time"
        clock.now += 9.95
        progress.update(25_000_000, 100_000_000)
        assert " 25%  25 of 100 MB, 30 s left" in stream.getvalue()
        progress.update(100_000_000, 100_000_000)
    lines = stream.getvalue().split("\r")
    assert lines[-1].startswith("[" + "#" * 30 + "] 100%") and lines[-1].endswith("\n")


def test_lines_elsewhere_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with Progress(stream, verb="checking") as progress:
        for second in range(25):
            clock.now = 100.0 + second
            progress.update(second, 24)
    assert stream.getvalue().splitlines() == [
        "checking:  42%  0 of 0 MB, 14 s left",
        "checking:  83%  0 of 0 MB, 4 s left",
    ]


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal()
    with Progress(stream, is_silent=True) as progress:
        clock.now += 100
        progress.update(5, 5)
    assert stream.getvalue() == ""


def test_nothing_to_do_is_done() -> None:
    stream = Terminal()
    with Progress(stream) as progress:
        progress.update(0, 0)
    assert "100%" in stream.getvalue()
