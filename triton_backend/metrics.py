# SPDX-License-Identifier: Apache-2.0
"""Gauges on Triton server's `/metrics`, in the families that TensorRT-LLM's dashboards read."""

from __future__ import annotations

from typing import Any

from enginery.runtime.runtime import Stats

# Family, its help text, its label, and per label value how it follows from the statistics.
_FAMILIES = (
    (
        "nv_trt_llm_request_metrics",
        "Requests and sequences of the runtime",
        "request_type",
        {
            "waiting": lambda s: s.num_waiting,
            "scheduled": lambda s: s.num_running,
            "active": lambda s: s.num_requests - s.num_finished,
        },
    ),
    (
        "nv_trt_llm_kv_cache_block_metrics",
        "KV cache blocks",
        "kv_cache_block_type",
        {
            "max": lambda s: s.num_blocks,
            "free": lambda s: s.num_free_blocks,
            "used": lambda s: s.num_blocks - s.num_free_blocks,
            "cached": lambda s: s.num_cached_blocks,
        },
    ),
    (
        "enginery_runtime_total",
        "Totals of the runtime since it was started",
        "what",
        {
            "iterations": lambda s: s.num_iterations,
            "requests": lambda s: s.num_requests,
            "finished": lambda s: s.num_finished,
            "preemptions": lambda s: s.num_preemptions,
            "prompt_tokens": lambda s: s.num_prompt_tokens,
            "reused_tokens": lambda s: s.num_reused_tokens,
            "output_tokens": lambda s: s.num_output_tokens,
        },
    ),
)


class Gauges:
    """The gauges of one model instance.

    Args:
        pb_utils: Triton server's Python backend module.
        labels: on every gauge, e.g. model and version.
    """

    def __init__(self, pb_utils: Any, labels: dict[str, str]) -> None:
        # Families must outlive their metrics: a collected one takes the gauge away.
        self._families = []
        self._gauges = []
        for name, help_text, label, entries in _FAMILIES:
            family = pb_utils.MetricFamily(
                name=name, description=help_text, kind=pb_utils.MetricFamily.GAUGE
            )
            self._families.append(family)
            for value, read in entries.items():
                self._gauges.append((family.Metric(labels={**labels, label: value}), read))

    def update(self, stats: Stats) -> None:
        """Sets every gauge."""
        for gauge, read in self._gauges:
            gauge.set(read(stats))
