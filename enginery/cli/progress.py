# SPDX-License-Identifier: Apache-2.0
"""Progress of a long write: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self, TextIO

BAR_WIDTH = 30
TERMINAL_SECONDS = 0.1
LINE_SECONDS = 10.0


class Progress:
    """Shows how much is done and, from the rate so far, how long the rest takes.

    Args:
        stream: where to; a bar is drawn when it is a terminal.
        verb: what is being done, for lines that stand alone.
        is_silent: show nothing.
    """

    def __init__(
        self, stream: TextIO, *, verb: str = "packing weights", is_silent: bool = False
    ) -> None:
        self._verb = verb
        self._stream = stream
        self._is_silent = is_silent
        self._is_terminal = stream.isatty()
        self._start = self._shown = time.monotonic()
        self._has_bar = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_bar:
            self._stream.write("\n")
            self._stream.flush()

    def update(self, done: int, total: int) -> None:
        """Tells that `done` bytes of `total` are written; shows it when it is time to."""
        share = done / total if total else 1.0
        elapsed = time.monotonic() - self._start
        left = elapsed * (1 - share) / share if share else 0.0
        self.show(self._verb, share, f"{megabytes(done, total)}, {left:.0f} s left")

    def show(self, verb: str, share: float, text: str) -> None:
        """Shows how far it is, when it is time to.

        Args:
            verb: what is being done.
            share: of the whole, 0 to 1.
            text: the same in words.
        """
        now = time.monotonic()
        interval = TERMINAL_SECONDS if self._is_terminal else LINE_SECONDS
        is_last = share >= 1.0 and self._is_terminal
        if self._is_silent or (now - self._shown < interval and not is_last):
            return
        self._shown = now
        text = f"{share:4.0%}  {text}"
        if self._is_terminal:
            filled = round(BAR_WIDTH * share)
            bar = "#" * filled + "-" * (BAR_WIDTH - filled)
            self._stream.write(f"\r[{bar}] {text}  {verb}\033[K")
            self._has_bar = True
        else:
            self._stream.write(f"{verb}: {text}\n")
        self._stream.flush()


def megabytes(done: int, total: int) -> str:
    """A number of bytes of a total in words."""
    return f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
