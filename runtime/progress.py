# SPDX-License-Identifier: Apache-2.0
"""How far `LLM.generate` is, on one line of a terminal."""

from __future__ import annotations

import sys
import time

from .outputs import RequestOutput


class Progress:
    """A line on standard error that is written over.

    Args:
        num_requests: in all.
        is_shown: False writes nothing; neither does a standard error that is no terminal.
    """

    def __init__(self, num_requests: int, is_shown: bool) -> None:
        self._num_requests = num_requests
        self._is_shown = is_shown and sys.stderr.isatty()
        self._num_done = 0
        self._num_tokens = 0
        self._began = time.monotonic()

    def add(self, output: RequestOutput) -> None:
        """Counts a finished request."""
        self._num_done += 1
        self._num_tokens += sum(len(sequence.token_ids) for sequence in output.outputs)
        if self._is_shown:
            rate = self._num_tokens / max(time.monotonic() - self._began, 1e-9)
            text = f"{self._num_done}/{self._num_requests} requests, {rate:.1f} output tokens/s"
            print(f"\r{text}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the line."""
        if self._is_shown:
            print(file=sys.stderr)
