# SPDX-License-Identifier: Apache-2.0
"""From token times to the field's figures. Times are seconds, figures are milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from enginery.runtime.event import Event

PERCENTILES = (50, 90, 95, 99)


@dataclass
class RequestRecord:
    """What became of one request; times of CLOCK_MONOTONIC, in seconds."""

    index: int
    num_prompt_tokens: int
    submit_time: float
    """When the client handed the request over."""
    token_times: list[float] = field(default_factory=list)
    """When the runtime had each output token."""
    delivery_lags: list[float] = field(default_factory=list)
    """Per event, how much later the client held its tokens."""
    end_time: float | None = None
    """When the client learnt that the request had ended."""
    finish_reason: str | None = None
    error: str | None = None
    num_preemptions: int = 0
    num_reused_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)

    def add(self, event: Event, now: float) -> None:
        """Takes in an event that the client got at `now`.

        Tokens are timed by the runtime: a client in the same process, short of a core, may see
        several steps' tokens at once, and how late it sees them is kept apart.
        """
        if event.token_ids:
            token_time = now if event.last_token_ns is None else event.last_token_ns / 1e9
            self.token_times += [token_time] * len(event.token_ids)
            self.delivery_lags.append(now - token_time)
        if event.is_last:
            self.end_time = now
            self.finish_reason = event.finish_reason
            self.num_preemptions = event.num_preemptions
            self.num_reused_tokens = event.num_reused_tokens
            if event.status != "OK" or event.finish_reason != "LENGTH":
                self.error = event.error or f"ended with {event.finish_reason}"

    @property
    def is_complete(self) -> bool:
        """Whether it ended as it should, with at least one token."""
        return self.error is None and self.end_time is not None and bool(self.token_times)

    @property
    def num_output_tokens(self) -> int:
        """Tokens that came."""
        return len(self.token_times)

    @property
    def ttft_ms(self) -> float:
        """Time to first token."""
        return 1e3 * (self.token_times[0] - self.submit_time)

    @property
    def e2e_ms(self) -> float:
        """End-to-end latency: to the last token."""
        return 1e3 * (self.token_times[-1] - self.submit_time)

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first, (e2e - TTFT) / (n - 1); None for one token."""
        if self.num_output_tokens < 2:
            return None
        return (self.e2e_ms - self.ttft_ms) / (self.num_output_tokens - 1)

    @property
    def itls_ms(self) -> list[float]:
        """Inter-token latencies, one less than tokens."""
        return [1e3 * float(gap) for gap in np.diff(self.token_times)]


@dataclass(frozen=True)
class Distribution:
    """Summary of a sample; all zero for an empty one."""

    count: int
    mean: float
    std: float
    """Of the sample as it is (divided by n)."""
    minimum: float
    maximum: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        """Summarises `values`; percentiles are interpolated linearly."""
        if not values:
            return cls(0, *[0.0] * 8)
        array = np.asarray(values, np.float64)
        percentiles = (float(value) for value in np.percentile(array, PERCENTILES))
        return cls(
            array.size,
            float(array.mean()),
            float(array.std()),
            float(array.min()),
            float(array.max()),
            *percentiles,
        )


@dataclass(frozen=True)
class Metrics:
    """Figures of one run over its complete requests."""

    duration_s: float
    """From the first submission to the last token."""
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    ttft: Distribution
    tpot: Distribution
    itl: Distribution
    e2e: Distribution
    output_rate_per_request: Distribution
    """Per request: output tokens per second of its end-to-end latency."""
    generation_rate_per_request: Distribution
    """Per request of two tokens or more: 1 / TPOT, tokens per second."""
    request_throughput: float
    """Requests per second."""
    output_throughput: float
    """Output tokens per second."""
    total_token_throughput: float
    """Input and output tokens per second."""
    request_goodput: float | None
    """Requests per second that met every objective; None when there is none."""
    max_output_tokens_per_s: float
    """In the best of the one-second windows that begin at the start of the run."""
    max_concurrent_requests: int
    mean_concurrent_requests: float
    delivery_lag: Distribution
    """From the runtime's having a token to the client's; not part of the latencies."""
    num_preemptions: int
    num_reused_tokens: int


OBJECTIVES = ("ttft", "tpot", "e2el")


def meets(record: RequestRecord, objectives_ms: Mapping[str, float]) -> bool:
    """Whether a complete request met every objective; one token meets any TPOT."""
    latencies = {"ttft": record.ttft_ms, "tpot": record.tpot_ms or 0.0, "e2el": record.e2e_ms}
    return all(latencies[name] <= limit for name, limit in objectives_ms.items())


def measure(
    records: Sequence[RequestRecord], objectives_ms: Mapping[str, float] | None = None
) -> Metrics:
    """Computes a run's figures.

    Args:
        records: all requests of the run; those that failed are counted and left out of the rest.
        objectives_ms: latency limits for goodput by name, of `OBJECTIVES`.
    """
    complete = [record for record in records if record.is_complete]
    begin = min((record.submit_time for record in records), default=0.0)
    end = max((record.token_times[-1] for record in complete), default=begin)
    duration = end - begin
    tpots = [tpot for record in complete if (tpot := record.tpot_ms) is not None]
    latencies = [record.e2e_ms for record in complete]
    num_inputs = sum(record.num_prompt_tokens for record in complete)
    num_outputs = sum(record.num_output_tokens for record in complete)

    def per_second(count: float) -> float:
        return count / duration if duration > 0 else 0.0

    return Metrics(
        duration_s=duration,
        completed=len(complete),
        failed=len(records) - len(complete),
        total_input_tokens=num_inputs,
        total_output_tokens=num_outputs,
        ttft=Distribution.of([record.ttft_ms for record in complete]),
        tpot=Distribution.of(tpots),
        itl=Distribution.of([gap for record in complete for gap in record.itls_ms]),
        e2e=Distribution.of(latencies),
        output_rate_per_request=Distribution.of(
            [1e3 * r.num_output_tokens / r.e2e_ms for r in complete if r.e2e_ms > 0]
        ),
        generation_rate_per_request=Distribution.of([1e3 / tpot for tpot in tpots if tpot > 0]),
        request_throughput=per_second(len(complete)),
        output_throughput=per_second(num_outputs),
        total_token_throughput=per_second(num_inputs + num_outputs),
        request_goodput=(
            per_second(sum(meets(record, objectives_ms) for record in complete))
            if objectives_ms
            else None
        ),
        max_output_tokens_per_s=_peak_rate(complete, begin),
        max_concurrent_requests=_peak_concurrency(complete),
        mean_concurrent_requests=per_second(sum(latencies) / 1e3),
        delivery_lag=Distribution.of([1e3 * lag for r in complete for lag in r.delivery_lags]),
        num_preemptions=sum(record.num_preemptions for record in records),
        num_reused_tokens=sum(record.num_reused_tokens for record in records),
    )


def _peak_rate(records: Sequence[RequestRecord], begin: float) -> float:
    seconds = [int(time - begin) for record in records for time in record.token_times]
    return float(np.bincount(seconds).max()) if seconds else 0.0


def _peak_concurrency(records: Sequence[RequestRecord]) -> int:
    """The most requests in flight at once; one that ends as another begins does not meet it."""
    changes = [(record.submit_time, 1) for record in records]
    changes += [(record.token_times[-1], -1) for record in records]
    running = peak = 0
    for _, change in sorted(changes):
        running += change
        peak = max(peak, running)
    return peak
