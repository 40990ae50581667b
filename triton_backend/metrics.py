# SPDX-License-Identifier: Apache-2.0
"""What the runtime counts, on Triton server's `/metrics`.

Gauges are in the families that TensorRT-LLM's dashboards read, counters have vLLM's suffixes.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from enginery.runtime.errors import ShutDownError
from enginery.runtime.runtime import Stats

_LOG = logging.getLogger(__name__)

_PERIOD_S = 0.2


class GaugeFamily(NamedTuple):
    """Gauges that differ in one label."""

    name: str
    help: str
    label: str
    values: dict[str, Callable[[Stats], int]]
    """Value of the label to what the gauge shows."""


REQUESTS = GaugeFamily(
    "nv_trt_llm_request_metrics",
    "Requests and sequences of the runtime",
    "request_type",
    {
        "waiting": lambda s: s.num_waiting,
        "scheduled": lambda s: s.num_running,
        "active": lambda s: s.num_requests - s.num_finished,
    },
)
KV_CACHE_BLOCKS = GaugeFamily(
    "nv_trt_llm_kv_cache_block_metrics",
    "KV cache blocks; free ones include cached ones, which can be had at once",
    "kv_cache_block_type",
    {
        "max": lambda s: s.num_blocks,
        "free": lambda s: s.num_free_blocks,
        "used": lambda s: s.num_blocks - s.num_free_blocks,
        "cached": lambda s: s.num_cached_blocks,
    },
)
GAUGES = (KV_CACHE_BLOCKS, REQUESTS)

COUNTERS: dict[str, tuple[str, Callable[[Stats], int]]] = {
    "enginery_iterations_total": ("Steps", lambda s: s.num_iterations),
    "enginery_requests_total": ("Requests submitted", lambda s: s.num_requests),
    "enginery_requests_finished_total": (
        "Requests ended, for whatever reason",
        lambda s: s.num_finished,
    ),
    "enginery_num_preemptions_total": ("Preemptions", lambda s: s.num_preemptions),
    "enginery_prompt_tokens_total": ("Prompt tokens admitted", lambda s: s.num_prompt_tokens),
    "enginery_prefix_cache_hits_total": (
        "Prompt tokens taken from the prefix cache",
        lambda s: s.num_reused_tokens,
    ),
    "enginery_generation_tokens_total": ("Tokens generated", lambda s: s.num_output_tokens),
}

TIMESTAMP = "enginery_metrics_timestamp_seconds"


class Metrics:
    """The metrics of one model instance, brought up to date by a thread.

    Args:
        pb_utils: Triton server's Python backend module.
        read: gives the statistics; raises ShutDownError when there are no more.
        labels: on every metric, e.g. model and version.
    """

    def __init__(self, pb_utils: Any, read: Callable[[], Stats], labels: dict[str, str]) -> None:
        self._read = read
        # Families must outlive their metrics: a collected one takes them away.
        self._families = []
        self._gauges = []
        self._counters = []
        kind = pb_utils.MetricFamily
        for gauges in GAUGES:
            family = kind(name=gauges.name, description=gauges.help, kind=kind.GAUGE)
            self._families.append(family)
            for value, of in gauges.values.items():
                self._gauges.append((family.Metric(labels={**labels, gauges.label: value}), of))
        for name, (help_text, of) in COUNTERS.items():
            family = kind(name=name, description=help_text, kind=kind.COUNTER)
            self._families.append(family)
            self._counters.append((family.Metric(labels=labels), of))
        family = kind(
            name=TIMESTAMP,
            description="Unix time; the other metrics are not older",
            kind=kind.GAUGE,
        )
        self._families.append(family)
        self._timestamp = family.Metric(labels=labels)
        self._last: Stats | None = None
        self._update()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._is_closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        try:
            while not self._is_closing.wait(_PERIOD_S):
                self._update()
        except ShutDownError:
            return
        except Exception:
            _LOG.exception("metrics are not updated any more")

    def _update(self) -> None:
        now, stats = time.time(), self._read()
        # Each call is a message to another process: only the time is sent while nothing happens.
        if stats != self._last:
            self._show(stats)
        self._timestamp.set(now)

    def _show(self, stats: Stats) -> None:
        for counter, of in self._counters:
            grown = of(stats) - (of(self._last) if self._last is not None else 0)
            if grown:
                counter.increment(grown)
        for gauge, of in self._gauges:
            gauge.set(of(stats))
        self._last = stats


def read_gauge(text: str, family: GaugeFamily, value: str) -> float | None:
    """Reads a gauge from the text of `/metrics`; None when it is not there.

    Args:
        text: in Prometheus' format.
        family: of the gauge.
        value: of the family's label.
    """
    pattern = rf'^{family.name}{{[^}}]*{family.label}="{value}"[^}}]*}} (\S+)'
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
