# SPDX-License-Identifier: Apache-2.0
"""Figures of timelines small enough to compute by hand."""

from __future__ import annotations

import pytest

from enginery.bench.metrics import Distribution, RequestRecord, measure, meets
from enginery.runtime.event import Event


def record(index: int, submit: float, tokens: list[float], num_prompt: int = 10) -> RequestRecord:
    return RequestRecord(
        index, num_prompt, submit, list(tokens), end_time=tokens[-1], finish_reason="LENGTH"
    )


# Three requests on a clock that starts at 100 s.
FIRST = record(0, 100.0, [100.5, 100.6, 100.7, 101.0])
SECOND = record(1, 100.2, [100.6, 101.2], num_prompt=20)
SINGLE = record(2, 100.9, [101.0], num_prompt=5)
FAILED = RequestRecord(3, 7, 100.0, error="INVALID_ARGUMENT: too long")


def test_latencies_of_one_request() -> None:
    assert FIRST.ttft_ms == pytest.approx(500)
    assert FIRST.e2e_ms == pytest.approx(1000)
    assert FIRST.tpot_ms == pytest.approx((1000 - 500) / 3)
    assert FIRST.itls_ms == pytest.approx([100, 100, 300])


def test_one_token_has_no_tpot() -> None:
    assert SINGLE.tpot_ms is None
    assert SINGLE.itls_ms == []
    metrics = measure([SINGLE])
    assert metrics.tpot.count == 0
    assert metrics.tpot.mean == 0
    assert metrics.ttft.mean == pytest.approx(100)


def test_run() -> None:
    metrics = measure([FIRST, SECOND, SINGLE, FAILED])
    assert metrics.duration_s == pytest.approx(1.2)
    assert (metrics.completed, metrics.failed) == (3, 1)
    assert (metrics.total_input_tokens, metrics.total_output_tokens) == (35, 7)
    assert metrics.request_throughput == pytest.approx(3 / 1.2)
    assert metrics.output_throughput == pytest.approx(7 / 1.2)
    assert metrics.total_token_throughput == pytest.approx(42 / 1.2)
    assert metrics.ttft.mean == pytest.approx((500 + 400 + 100) / 3)
    assert metrics.ttft.p50 == pytest.approx(400)
    assert metrics.tpot.count == 2
    assert metrics.tpot.mean == pytest.approx((500 / 3 + 600) / 2)
    assert metrics.itl.count == 4
    assert metrics.itl.maximum == pytest.approx(600)
    assert metrics.e2e.maximum == pytest.approx(1000)
    assert metrics.request_goodput is None
    # Requests are in flight for 1.0, 1.0 and 0.1 s of 1.2 s.
    assert metrics.mean_concurrent_requests == pytest.approx(2.1 / 1.2)
    # The first ends at 101.0 while the second and the third are in flight.
    assert metrics.max_concurrent_requests == 3
    # [100, 101): four tokens; [101, 102): three.
    assert metrics.max_output_tokens_per_s == 4
    assert metrics.output_rate_per_request.mean == pytest.approx((4 / 1.0 + 2 / 1.0 + 1 / 0.1) / 3)
    assert metrics.generation_rate_per_request.mean == pytest.approx((6 + 1 / 0.6) / 2)


def test_requests_that_meet_end_to_end_are_not_concurrent() -> None:
    metrics = measure([record(0, 0.0, [1.0]), record(1, 1.0, [2.0])])
    assert metrics.max_concurrent_requests == 1


@pytest.mark.parametrize(
    ("objectives", "met"),
    [
        ({"ttft": 450}, [False, True, True]),
        ({"ttft": 500.001}, [True, True, True]),
        ({"tpot": 200}, [True, False, True]),
        ({"e2el": 999}, [False, False, True]),
        ({"ttft": 450, "tpot": 200}, [False, False, True]),
    ],
)
def test_goodput(objectives: dict[str, float], met: list[bool]) -> None:
    # FIRST and SECOND both take 1000 ms.
    records = [FIRST, SECOND, SINGLE]
    assert [meets(entry, objectives) for entry in records] == met
    assert measure(records, objectives).request_goodput == pytest.approx(sum(met) / 1.2)


def test_events_are_timed_by_the_runtime() -> None:
    def event(tokens: list[int], last_token_s: float, finish_reason: str | None = None) -> Event:
        return Event(
            request_id=1, sequence_index=0, finish_reason=finish_reason,
            is_last=finish_reason is not None, status="OK", error="", token_ids=tokens, text="",
            logprobs=None, context_logits=None, generation_logits=None, stop_string=None,
            stop_token_id=None, num_preemptions=2, num_prompt_tokens=10, num_reused_tokens=4,
            num_output_tokens=0, arrival_ns=None, first_scheduled_ns=None, first_token_ns=None,
            last_token_ns=int(last_token_s * 1e9), prompt_logprobs=None,
        )  # fmt: skip

    seen = RequestRecord(0, 10, 7.0)
    # Both come to the client at once, late.
    seen.add(event([1], 7.5), 9.0)
    seen.add(event([2], 8.0, "LENGTH"), 9.0)
    assert seen.token_times == [7.5, 8.0]
    assert seen.delivery_lags == [1.5, 1.0]
    assert (seen.ttft_ms, seen.e2e_ms, seen.end_time) == (500, 1000, 9.0)
    assert (seen.num_preemptions, seen.num_reused_tokens, seen.error) == (2, 4, None)
    assert seen.is_complete
    cancelled = RequestRecord(0, 10, 7.0)
    cancelled.add(event([1], 7.5, "CANCELLED"), 9.0)
    assert cancelled.error == "ended with CANCELLED"
    assert not cancelled.is_complete


def test_failed_requests_do_not_count_as_good() -> None:
    assert measure([FIRST, FAILED], {"ttft": 1e9}).request_goodput == pytest.approx(1 / 1.0)


def test_distribution() -> None:
    found = Distribution.of([4.0, 1.0, 3.0, 2.0])
    assert (found.count, found.mean, found.minimum, found.maximum) == (4, 2.5, 1, 4)
    assert found.std == pytest.approx(1.25**0.5)
    assert found.p50 == pytest.approx(2.5)
    assert found.p90 == pytest.approx(3.7)
    assert found.p99 == pytest.approx(3.97)


def test_nothing_at_all() -> None:
    metrics = measure([])
    assert metrics.completed == metrics.failed == 0
    assert metrics.output_throughput == 0
