# SPDX-License-Identifier: Apache-2.0
"""Shows what the runtime counts on Triton server's `/metrics`, in the families of the table."""

from __future__ import annotations

import ctypes
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from enginery.runtime.errors import ShutDownError
from enginery.runtime.runtime import Runtime

from .metric_families import (
    COUNTER,
    COUNTERS,
    GAUGE,
    GAUGES,
    HISTOGRAMS,
    KV_CACHE_BLOCKS,
    REQUESTS,
    STEP_TIME,
    TIMESTAMP,
    TIMESTAMP_HELP,
    Family,
    HistogramFamily,
)
from .observations import Observations
from .readings import Limits, Reading

__all__ = [
    "COUNTERS", "GAUGES", "HISTOGRAMS", "KV_CACHE_BLOCKS", "REQUESTS", "TIMESTAMP",
    "Metrics", "Series", "all_series", "read_gauge", "read_runtime",
]  # fmt: skip

_LOG = logging.getLogger(__name__)

_PERIOD_S = 0.2
# Rounds until gauges that did not change are sent again, see Metrics.
_ROUNDS_TO_REFRESH = 25


class Series(NamedTuple):
    """One metric of a family, as Triton server has them."""

    name: str
    help: str
    kind: str
    """GAUGE or COUNTER."""
    labels: dict[str, str]
    """Those of its own."""
    value: Callable[[Reading], float]


def all_series() -> Iterator[Series]:
    """All metrics but the timestamp, in the order in which they are brought up to date."""
    for family in GAUGES:
        yield from _plain(family, GAUGE)
    for family in COUNTERS:
        yield from _plain(family, COUNTER)
    for histogram in HISTOGRAMS:
        yield from _histogram(histogram)


def _plain(family: Family, kind: str) -> Iterator[Series]:
    for value, of in family.values.items():
        labels = {family.label: value} if family.label else {}
        yield Series(family.name, family.help, kind, labels, of)


def _histogram(family: HistogramFamily) -> Iterator[Series]:
    """Larger buckets first: who reads in between never sees less in a larger bucket."""
    own = {family.label: family.label_value} if family.label else {}
    name = family.name
    bounds = [*family.buckets.split(), "+Inf"]

    def up_to(bucket: int) -> Callable[[Reading], float]:
        return lambda r: r.observed.histograms[name].num_up_to(bucket)

    yield Series(f"{name}_count", family.help, COUNTER, own, up_to(len(bounds) - 1))
    for bucket, bound in reversed(list(enumerate(bounds))):
        yield Series(f"{name}_bucket", family.help, COUNTER, {**own, "le": bound}, up_to(bucket))
    yield Series(
        f"{name}_sum", family.help, COUNTER, own, lambda r: r.observed.histograms[name].sum
    )


def read_runtime(
    runtime: Runtime, limits: Limits, observations: Observations
) -> Callable[[], Reading]:
    """What gives readings of a runtime.

    Args:
        runtime: whose `iterations` hold few entries: all are copied each time.
        limits: of the runtime.
        observations: of its events.
    """

    def read() -> Reading:
        now, stats = time.time(), runtime.stats()
        steps = runtime.iterations() if stats.num_running else []
        observed = observations.read()
        # The runtime counts its steps itself: nothing here sees them.
        step_time = observed.histograms[STEP_TIME.name]
        step_time.counts, step_time.sum = list(stats.step_time_counts), stats.step_ns / 1e9
        return Reading(stats, steps[-1] if steps else None, limits, observed, now)

    return read


class Metrics:
    """The metrics of one model instance, brought up to date by a thread.

    An instance that is being unloaded and one that serves already have the same metrics: counters
    add both up, gauges are soon those of the one that stays. None is ever taken off the page.
    Triton server 2.51 counts the users of a metric in each object of its family, while all objects
    of one name share the metric: the first instance to end would free what the other one writes to.

    Args:
        pb_utils: Triton server's Python backend module.
        read: gives the readings; raises ShutDownError when there are no more.
        labels: on every metric, e.g. model and version.
    """

    def __init__(self, pb_utils: Any, read: Callable[[], Reading], labels: dict[str, str]) -> None:
        self._read = read
        kind = pb_utils.MetricFamily
        families: dict[str, Any] = {}

        def add(series: Series) -> Any:
            family = families.get(series.name)
            if family is None:
                kinds = {GAUGE: kind.GAUGE, COUNTER: kind.COUNTER}
                family = kind(name=series.name, description=series.help, kind=kinds[series.kind])
                families[series.name] = _never_collected(family)
            return family.Metric(labels={**labels, **series.labels})

        self._shown = [_Shown(series, add(series)) for series in all_series()]
        self._timestamp = add(Series(TIMESTAMP, TIMESTAMP_HELP, GAUGE, {}, lambda r: r.read_at))
        self._update()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and sets the gauges, but for the timestamp, to 0; counters stay."""
        self._is_closing.set()
        self._thread.join(timeout=5)
        for shown in self._shown:
            shown.clear()

    def _run(self) -> None:
        try:
            for round_ in itertools.count(1):
                if self._is_closing.wait(_PERIOD_S):
                    return
                self._update(refreshes=round_ % _ROUNDS_TO_REFRESH == 0)
        except ShutDownError:
            return
        except Exception:
            _LOG.exception("metrics are not updated any more")

    def _update(self, *, refreshes: bool = False) -> None:
        reading = self._read()
        for shown in self._shown:
            shown.update(reading, refreshes=refreshes)
        self._timestamp.set(reading.read_at)


class _Shown:
    """A metric and the value that it has: each call is a message to another process."""

    def __init__(self, series: Series, metric: Any) -> None:
        self._value = series.value
        self._is_counter = series.kind == COUNTER
        self._metric = metric
        self._last: float = 0

    def update(self, reading: Reading, *, refreshes: bool) -> None:
        value = self._value(reading)
        if value != self._last and self._is_counter:
            self._metric.increment(value - self._last)
        elif (value != self._last or refreshes) and not self._is_counter:
            self._metric.set(value)
        self._last = value

    def clear(self) -> None:
        if not self._is_counter:
            self._metric.set(0)


def _never_collected(item: Any) -> Any:
    """The same object, which lives as long as the process: even its end does not destroy it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
    return item


def read_gauge(text: str, family: Family, value: str) -> float | None:
    """Reads a gauge from the text of `/metrics`; None when it is not there.

    Args:
        text: in Prometheus' format.
        family: of the gauge.
        value: of the family's label.
    """
    pattern = rf'^{family.name}{{[^}}]*{family.label}="{value}"[^}}]*}} (\S+)'
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
