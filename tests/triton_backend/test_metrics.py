# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

from enginery.runtime.errors import ShutDownError
from enginery.runtime.runtime import Stats
from enginery.triton_backend.metrics import (
    KV_CACHE_BLOCKS,
    REQUESTS,
    TIMESTAMP,
    Metrics,
    read_gauge,
)

LABELS = {"model": "llm", "version": "1"}
ZERO = Stats(**dict.fromkeys(Stats.__dataclass_fields__, 0))
DEADLINE_S = 30


class FakeFamilies:
    """`MetricFamily` of Triton server; a counter takes increments and a gauge values."""

    GAUGE, COUNTER = "gauge", "counter"

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}

    def __call__(self, name: str, description: str, kind: str) -> Any:
        assert description

        def metric(labels: dict[str, str]) -> Any:
            assert labels.items() >= LABELS.items()
            key = name, "".join(value for label, value in labels.items() if label not in LABELS)
            self.values[key] = 0

            def set_value(value: float) -> None:
                assert kind == self.GAUGE
                self.values[key] = value

            def increment(value: float) -> None:
                assert kind == self.COUNTER
                assert value > 0
                self.values[key] += value

            return SimpleNamespace(set=set_value, increment=increment)

        return SimpleNamespace(Metric=metric)


def test_values_follow_the_statistics() -> None:
    families = FakeFamilies()
    stats = dataclasses.replace(
        ZERO, num_blocks=100, num_free_blocks=70, num_cached_blocks=20, num_waiting=5,
        num_running=3, num_requests=50, num_finished=42, num_output_tokens=1000,
    )  # fmt: skip
    current = [stats]
    metrics = Metrics(SimpleNamespace(MetricFamily=families), lambda: current[0], LABELS)
    blocks, requests = KV_CACHE_BLOCKS.name, REQUESTS.name
    # They are there before the server says that it is ready.
    assert families.values[blocks, "max"] == 100
    assert families.values[blocks, "free"] == 70
    assert families.values[blocks, "used"] == 30
    assert families.values[blocks, "cached"] == 20
    assert families.values[requests, "waiting"] == 5
    assert families.values[requests, "scheduled"] == 3
    assert families.values[requests, "active"] == 8
    assert families.values["enginery_generation_tokens_total", ""] == 1000
    changed_at = time.time()
    current[0] = dataclasses.replace(stats, num_output_tokens=1500, num_free_blocks=100)
    deadline = time.monotonic() + DEADLINE_S
    while families.values[TIMESTAMP, ""] <= changed_at:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert families.values["enginery_generation_tokens_total", ""] == 1500
    assert families.values[blocks, "used"] == 0
    metrics.close()


def test_end_of_the_runtime_ends_the_thread() -> None:
    answers = iter([ZERO])

    def read() -> Stats:
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
