# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from enginery.runtime import abi
from enginery.runtime.errors import ShutDownError
from enginery.runtime.runtime import Iteration, Stats
from enginery.triton_backend.metric_families import (
    BATCHER,
    ERROR_CAUSES,
    FINISH_REASONS,
    GAUGE,
    HISTOGRAMS,
    MEMORY,
    STEP_TIME,
    TIME_TO_FIRST_TOKEN,
)
from enginery.triton_backend.metrics import (
    KV_CACHE_BLOCKS,
    REQUESTS,
    TIMESTAMP,
    Metrics,
    all_series,
    read_gauge,
    read_runtime,
)
from enginery.triton_backend.observations import Observations
from enginery.triton_backend.readings import Distribution, Limits, Observed, Reading

LABELS = {"model": "llm", "version": "1"}
NO_STEPS = (0,) * abi.NUM_STEP_TIMES
_COUNTS = dict.fromkeys(set(Stats.__dataclass_fields__) - {"step_time_counts"}, 0)
ZERO = Stats(**_COUNTS, step_time_counts=NO_STEPS)
ZERO_BLOCKS = dataclasses.replace(ZERO, num_blocks=1)
LIMITS = Limits(max_batch_size=16, tokens_per_block=32, memory_type="gpu")
STEP = dataclasses.replace(
    Iteration(**dict.fromkeys(Iteration.__dataclass_fields__, 0)),
    num_sequences=5, num_prefill_tokens=40, num_decode_tokens=3, num_preempted=2,
)  # fmt: skip
DEADLINE_S = 30


def nothing_observed() -> Observed:
    return Observed(
        {family.name: Distribution(family.bounds) for family in HISTOGRAMS},
        dict.fromkeys(FINISH_REASONS, 0),
        dict.fromkeys(ERROR_CAUSES, 0),
    )


def reading(
    stats: Stats, step: Iteration | None = None, observed: Observed | None = None
) -> Reading:
    return Reading(stats, step, LIMITS, observed or nothing_observed(), time.time())


class FakeFamilies:
    """`MetricFamily` of Triton server; a counter takes increments and a gauge values."""

    GAUGE, COUNTER = "gauge", "counter"

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}
        self.calls: list[tuple[str, str]] = []

    def __call__(self, name: str, description: str, kind: str) -> Any:
        assert description

        def metric(labels: dict[str, str]) -> Any:
            assert labels.items() >= LABELS.items()
            key = name, "".join(value for label, value in labels.items() if label not in LABELS)
            assert key not in self.values
            self.values[key] = 0

            def set_value(value: float) -> None:
                assert kind == self.GAUGE
                self.calls.append(key)
                self.values[key] = value

            def increment(value: float) -> None:
                assert kind == self.COUNTER
                assert value > 0
                self.calls.append(key)
                self.values[key] += value

            return SimpleNamespace(set=set_value, increment=increment)

        return SimpleNamespace(Metric=metric)


def wait_for_update(families: FakeFamilies) -> None:
    changed_at = time.time()
    deadline = time.monotonic() + DEADLINE_S
    while families.values[TIMESTAMP, ""] <= changed_at:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_values_follow_the_readings() -> None:
    families = FakeFamilies()
    stats = dataclasses.replace(
        ZERO, num_blocks=100, num_free_blocks=70, num_cached_blocks=20, num_waiting=5,
        num_running=3, num_requests=50, num_finished=42, num_output_tokens=1000, block_bytes=10,
        workspace_bytes=7, step_ns=2_500_000_000, num_reused_tokens=320,
    )  # fmt: skip
    step: list[Iteration | None] = [STEP]
    current = [stats]
    metrics = Metrics(
        SimpleNamespace(MetricFamily=families), lambda: reading(current[0], step[0]), LABELS
    )
    # They are there before the server says that it is ready.
    blocks = {
        "max": 100, "free": 70, "used": 30, "cached": 20, "reused": 10, "tokens_per": 32,
        "fraction": 0.3,
    }  # fmt: skip
    assert {value: families.values[KV_CACHE_BLOCKS.name, value] for value in blocks} == blocks
    requests = {"waiting": 5, "scheduled": 3, "active": 8, "max": 16, "context": 2}
    assert {value: families.values[REQUESTS.name, value] for value in requests} == requests
    assert families.values[MEMORY.name, "gpu"] == 1007
    assert families.values[MEMORY.name, "cpu"] == 0
    batch = {"total_context_tokens": 40, "generation_requests": 3, "paused_requests": 2}
    assert {value: families.values[BATCHER.name, value] for value in batch} == batch
    assert families.values["enginery_generation_tokens_total", ""] == 1000
    assert families.values["enginery_step_seconds_total", ""] == 2.5
    current[0] = dataclasses.replace(stats, num_output_tokens=1500, num_free_blocks=100)
    step[0] = None
    wait_for_update(families)
    assert families.values["enginery_generation_tokens_total", ""] == 1500
    assert families.values[KV_CACHE_BLOCKS.name, "used"] == 0
    assert families.values[BATCHER.name, "generation_requests"] == 0
    metrics.close()


def test_histogram_is_cumulative_and_never_inconsistent() -> None:
    families = FakeFamilies()
    observed = nothing_observed()
    metrics = Metrics(
        SimpleNamespace(MetricFamily=families), lambda: reading(ZERO_BLOCKS, None, observed), LABELS
    )
    families.calls.clear()
    seen = observed.histograms[TIME_TO_FIRST_TOKEN.name].copy()
    seen.counts[3], seen.counts[5], seen.counts[-1], seen.sum = 2, 1, 4, 12345.5
    observed.histograms[TIME_TO_FIRST_TOKEN.name] = seen
    wait_for_update(families)
    metrics.close()
    name = TIME_TO_FIRST_TOKEN.name
    bounds = [*TIME_TO_FIRST_TOKEN.buckets.split(), "+Inf"]
    shown = [families.values[f"{name}_bucket", bound] for bound in bounds]
    assert shown == [0, 0, 0, 2, 2, *[3] * (len(bounds) - 6), 7]
    assert families.values[f"{name}_count", ""] == 7
    assert families.values[f"{name}_sum", ""] == 12345.5
    # Of two buckets the larger one grows first: no page has less in it than in the smaller one.
    grown = [bounds.index(bound) for family, bound in families.calls if family == f"{name}_bucket"]
    assert grown == sorted(range(3, len(bounds)), reverse=True)


def test_step_times_are_those_that_the_runtime_counts() -> None:
    bounds = [abi.STEP_TIME_NS * 2**i / 1e9 for i in range(abi.NUM_STEP_TIMES - 1)]
    assert STEP_TIME.bounds == pytest.approx(bounds, rel=1e-12)
    counts = tuple(range(abi.NUM_STEP_TIMES))
    stats = dataclasses.replace(ZERO_BLOCKS, step_time_counts=counts, step_ns=7_000_000_000)
    runtime: Any = SimpleNamespace(stats=lambda: stats)
    seen = read_runtime(runtime, LIMITS, Observations())().observed.histograms[STEP_TIME.name]
    assert tuple(seen.counts) == counts
    assert seen.sum == 7
    assert seen.num_up_to(len(bounds)) == sum(counts)


def test_calls_are_for_what_changed() -> None:
    families = FakeFamilies()
    metrics = Metrics(SimpleNamespace(MetricFamily=families), lambda: reading(ZERO_BLOCKS), LABELS)
    families.calls.clear()
    wait_for_update(families)
    calls = set(families.calls)
    metrics.close()
    clocks = {(TIMESTAMP, ""), ("nv_trt_llm_general_metrics", "timestamp")}
    assert calls <= clocks


def test_gauges_are_restored_after_another_instance_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginery.triton_backend.metrics._ROUNDS_TO_REFRESH", 2)
    families = FakeFamilies()
    utils = SimpleNamespace(MetricFamily=families)
    metrics = Metrics(utils, lambda: reading(ZERO_BLOCKS), LABELS)
    families.values[REQUESTS.name, "max"] = 0  # as the other one left it
    for _ in range(4):  # one more than to the next refresh, whichever round comes first
        wait_for_update(families)
    assert families.values[REQUESTS.name, "max"] == LIMITS.max_batch_size
    metrics.close()


def test_end_leaves_counters_and_gauges_of_zero() -> None:
    families = FakeFamilies()
    stats = dataclasses.replace(ZERO_BLOCKS, num_output_tokens=1000, num_running=3)
    metrics = Metrics(SimpleNamespace(MetricFamily=families), lambda: reading(stats, STEP), LABELS)
    metrics.close()
    shown = {(s.name, "".join(s.labels.values())): s.kind for s in all_series()}
    gauges = {key: families.values[key] for key, kind in shown.items() if kind == GAUGE}
    assert gauges == dict.fromkeys(gauges, 0)
    assert families.values["enginery_generation_tokens_total", ""] == 1000
    assert families.values[TIMESTAMP, ""] > 0


def test_names_are_prometheus_ones() -> None:
    kinds: dict[str, tuple[str, str, frozenset[str]]] = {}
    for series in all_series():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", series.name)
        form = series.kind, series.help, frozenset(series.labels)
        assert kinds.setdefault(series.name, form) == form
        assert not set(series.labels) & set(LABELS)


def test_end_of_the_runtime_ends_the_thread() -> None:
    answers = iter([reading(ZERO_BLOCKS)])

    def read() -> Reading:
        for answer in answers:
            return answer
        raise ShutDownError("closed")

    Metrics(SimpleNamespace(MetricFamily=FakeFamilies()), read, LABELS).close()


def test_read_gauge() -> None:
    text = (
        "# TYPE nv_trt_llm_request_metrics gauge\n"
        'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 3\n'
        'nv_trt_llm_request_metrics{model="m",request_type="active",version="1"} 17.5\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free"} 4096\n'
    )
    assert read_gauge(text, REQUESTS, "active") == 17.5
    assert read_gauge(text, REQUESTS, "waiting") == 3
    assert read_gauge(text, KV_CACHE_BLOCKS, "free") == 4096
    assert read_gauge(text, KV_CACHE_BLOCKS, "used") is None
    assert read_gauge("", REQUESTS, "active") is None
