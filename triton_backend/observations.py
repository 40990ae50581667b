# SPDX-License-Identifier: Apache-2.0
"""Adds up what the events of requests say: latencies, lengths, finish reasons, errors.

The dispatcher calls it, so it costs a lookup and a few additions per event and never reaches
Triton server; metrics.py shows the sums. The native backend does the same
(triton_backend/native/observations.cc), and both are tested with one golden file.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable

from enginery.runtime.event import Event

from .metric_families import (
    E2E_REQUEST_LATENCY,
    ERROR_CAUSES,
    FINISH_REASONS,
    GENERATION_TOKENS,
    HISTOGRAMS,
    INPUT_TOKENS,
    INTER_TOKEN_LATENCY,
    OTHER_CAUSE,
    OUTPUT_TOKENS,
    PROMPT_TOKENS,
    QUEUE_TIME,
    TIME_PER_OUTPUT_TOKEN,
    TIME_TO_FIRST_TOKEN,
    HistogramFamily,
)
from .readings import Distribution, Observed

_COMPLETE = ("STOP", "END_ID", "LENGTH")
_REASONS = {
    "STOP": "stop",
    "END_ID": "stop",
    "LENGTH": "length",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
}
"""What is not here is an error."""


class _Progress:
    """What was observed of a request in flight."""

    __slots__ = ("has_first_token", "is_scheduled", "sequences")

    def __init__(self) -> None:
        self.is_scheduled = False
        self.has_first_token = False
        self.sequences: dict[int, tuple[int, int]] = {}
        """By index: time of the last token in nanoseconds, and tokens so far."""


class Observations:
    """Sums since the start; everything may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, _Progress] = {}
        self._observed = Observed(
            {family.name: Distribution(family.bounds) for family in HISTOGRAMS},
            dict.fromkeys(FINISH_REASONS, 0),
            dict.fromkeys(ERROR_CAUSES, 0),
        )

    def add(self, events: Iterable[Event]) -> None:
        """Takes events, those of a request in their order."""
        with self._lock:
            for event in events:
                self._add(event)

    def add_error(self, status: str) -> None:
        """Takes the status with which a request was refused."""
        with self._lock:
            self._add_error(status)

    def read(self) -> Observed:
        """A copy of the sums."""
        with self._lock:
            return self._observed.copy()

    def _add(self, event: Event) -> None:
        request = self._requests.get(event.request_id)
        if request is None:
            request = self._requests[event.request_id] = _Progress()
        if event.arrival_ns is not None:
            self._add_start(request, event, event.arrival_ns)
        if event.last_token_ns is not None and event.first_token_ns is not None:
            self._add_gaps(request, event, event.first_token_ns, event.last_token_ns)
        is_complete = event.finish_reason in _COMPLETE
        if is_complete:
            self._add_sequence(event)
        if event.is_last:
            del self._requests[event.request_id]
            self._add_end(event, is_complete=is_complete)

    def _add_start(self, request: _Progress, event: Event, arrival_ns: int) -> None:
        if not request.is_scheduled and event.first_scheduled_ns is not None:
            request.is_scheduled = True
            self._observe(QUEUE_TIME, (event.first_scheduled_ns - arrival_ns) / 1e9)
        if not request.has_first_token and event.first_token_ns is not None:
            request.has_first_token = True
            self._observe(TIME_TO_FIRST_TOKEN, (event.first_token_ns - arrival_ns) / 1e9)

    def _add_gaps(self, request: _Progress, event: Event, first_ns: int, last_ns: int) -> None:
        before = request.sequences.get(event.sequence_index)
        if before is None:
            # One event in all: when its tokens came is not known, as it does not stream.
            if event.finish_reason is not None:
                return
            before = (first_ns, 1)
        time_ns, num_tokens = before
        num_new = event.num_output_tokens - num_tokens
        if num_new > 0:
            self._observe(INTER_TOKEN_LATENCY, (last_ns - time_ns) / 1e9 / num_new, num_new)
        request.sequences[event.sequence_index] = (last_ns, max(1, event.num_output_tokens))

    def _add_sequence(self, event: Event) -> None:
        num_tokens = event.num_output_tokens
        self._observe(GENERATION_TOKENS, num_tokens)
        self._observe(OUTPUT_TOKENS, num_tokens)
        if num_tokens > 1 and event.first_token_ns is not None and event.last_token_ns is not None:
            duration_s = (event.last_token_ns - event.first_token_ns) / 1e9
            self._observe(TIME_PER_OUTPUT_TOKEN, duration_s / (num_tokens - 1))

    def _add_end(self, event: Event, *, is_complete: bool) -> None:
        self._observed.finish_reasons[_REASONS.get(event.finish_reason or "", "error")] += 1
        if event.finish_reason == "ERROR":
            self._add_error(event.status)
        if not is_complete:
            return
        self._observe(PROMPT_TOKENS, event.num_prompt_tokens)
        self._observe(INPUT_TOKENS, event.num_prompt_tokens)
        if event.last_token_ns is not None and event.arrival_ns is not None:
            self._observe(E2E_REQUEST_LATENCY, (event.last_token_ns - event.arrival_ns) / 1e9)

    def _add_error(self, status: str) -> None:
        cause = status.lower()
        self._observed.errors[cause if cause in ERROR_CAUSES else OTHER_CAUSE] += 1

    def _observe(self, family: HistogramFamily, value: float, times: int = 1) -> None:
        distribution = self._observed.histograms[family.name]
        distribution.counts[bisect.bisect_left(distribution.bounds, value)] += times
        distribution.sum += value * times
