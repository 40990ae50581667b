# SPDX-License-Identifier: Apache-2.0
"""The families of metrics on Triton server's `/metrics`, as data; the native backend has the same.

Gauges are in the families that TensorRT-LLM's dashboards read, the others have vLLM's names. What
is compared with the native backend's tables is in tests/triton_backend/test_native_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from enginery.runtime.runtime import Iteration, Stats

from .readings import Reading

GAUGE, COUNTER = "gauge", "counter"


class Family(NamedTuple):
    """Gauges or counters that differ in one label, or a single one."""

    name: str
    help: str
    label: str
    """"": one metric without a label of its own, whose key in `values` is ""."""
    values: Mapping[str, Callable[[Reading], float]]
    """Value of the label to what the metric shows."""


class HistogramFamily(NamedTuple):
    """A histogram: counters `NAME_bucket` with the label `le`, `NAME_sum` and `NAME_count`.

    Triton server has histograms, too. They take a call per value, to another process here: a call
    per token. Counters take a call per bucket that changed, whatever the load.
    """

    name: str
    help: str
    buckets: str
    """Upper bounds as `le` shows them, separated by spaces."""
    label: str = ""
    """"": it has no label of its own."""
    label_value: str = ""

    @property
    def bounds(self) -> tuple[float, ...]:
        """The buckets as numbers."""
        return tuple(float(bound) for bound in self.buckets.split())


def _of_step(value: Callable[[Iteration], int]) -> Callable[[Reading], float]:
    return lambda r: 0 if r.step is None else value(r.step)


def _memory(memory_type: str) -> Callable[[Reading], float]:
    return lambda r: r.memory_bytes if r.limits.memory_type == memory_type else 0


KV_CACHE_BLOCKS = Family(
    "nv_trt_llm_kv_cache_block_metrics",
    "KV cache blocks; free ones include cached ones, which can be had at once; reused: since the "
    "start",
    "kv_cache_block_type",
    {
        "max": lambda r: r.stats.num_blocks,
        "free": lambda r: r.stats.num_free_blocks,
        "used": lambda r: r.num_used_blocks,
        "cached": lambda r: r.stats.num_cached_blocks,
        "reused": lambda r: r.stats.num_reused_tokens // r.limits.tokens_per_block,
        "tokens_per": lambda r: r.limits.tokens_per_block,
        "fraction": lambda r: r.num_used_blocks / r.stats.num_blocks,
    },
)
REQUESTS = Family(
    "nv_trt_llm_request_metrics",
    "Requests and sequences of the runtime",
    "request_type",
    {
        "waiting": lambda r: r.stats.num_waiting,
        "scheduled": lambda r: r.stats.num_running,
        "active": lambda r: r.stats.num_requests - r.stats.num_finished,
        "max": lambda r: r.limits.max_batch_size,
        "context": _of_step(lambda step: step.num_sequences - step.num_decode_tokens),
    },
)
MEMORY = Family(
    "nv_trt_llm_runtime_memory_metrics",
    "Bytes of the KV cache and the workspace",
    "memory_type",
    {"cpu": _memory("cpu"), "gpu": _memory("gpu")},
)
BATCHER = Family(
    "nv_trt_llm_inflight_batcher_metrics",
    "The last step; 0 when nothing is running",
    "inflight_batcher_specific_metric",
    {
        "total_context_tokens": _of_step(lambda step: step.num_prefill_tokens),
        "generation_requests": _of_step(lambda step: step.num_decode_tokens),
        "paused_requests": _of_step(lambda step: step.num_preempted),
    },
)
GENERAL = Family(
    "nv_trt_llm_general_metrics",
    "Steps so far, and Unix time in whole seconds",
    "general_type",
    {
        "iteration_counter": lambda r: r.stats.num_iterations,
        "timestamp": lambda r: int(r.read_at),
    },
)
GAUGES = (KV_CACHE_BLOCKS, REQUESTS, MEMORY, BATCHER, GENERAL)


def _counter(name: str, help_text: str, of: Callable[[Stats], float]) -> Family:
    return Family(name, help_text, "", {"": lambda r: of(r.stats)})


def _finished(reason: str) -> Callable[[Reading], float]:
    return lambda r: r.observed.finish_reasons[reason]


def _failed(cause: str) -> Callable[[Reading], float]:
    return lambda r: r.observed.errors[cause]


FINISH_REASONS = ("stop", "length", "cancelled", "timeout", "error")
OTHER_CAUSE = "other"
ERROR_CAUSES = (
    "invalid_argument", "not_found", "not_supported", "queue_full", "shut_down", "out_of_memory",
    "executor_failed", "internal", OTHER_CAUSE,
)  # fmt: skip
"""Statuses in small letters."""

COUNTERS = (
    _counter("enginery_iterations_total", "Steps", lambda s: s.num_iterations),
    _counter("enginery_requests_total", "Requests submitted", lambda s: s.num_requests),
    _counter(
        "enginery_requests_finished_total",
        "Requests ended, for whatever reason",
        lambda s: s.num_finished,
    ),
    _counter("enginery_num_preemptions_total", "Preemptions", lambda s: s.num_preemptions),
    _counter(
        "enginery_prompt_tokens_total", "Prompt tokens admitted", lambda s: s.num_prompt_tokens
    ),
    _counter(
        "enginery_prefix_cache_hits_total",
        "Prompt tokens taken from the prefix cache",
        lambda s: s.num_reused_tokens,
    ),
    _counter("enginery_generation_tokens_total", "Tokens generated", lambda s: s.num_output_tokens),
    _counter(
        "enginery_scheduled_tokens_total",
        "Tokens of all steps, of prompts and generated",
        lambda s: s.num_scheduled_tokens,
    ),
    _counter("enginery_step_seconds_total", "Time spent in steps", lambda s: s.step_ns / 1e9),
    _counter(
        "enginery_scheduler_seconds_total",
        "Time spent in steps, but not in the executor",
        lambda s: s.scheduler_ns / 1e9,
    ),
    Family(
        "enginery_request_finish_reasons_total",
        "Requests that the runtime took and that ended, by what ended their last sequence",
        "finish_reason",
        {reason: _finished(reason) for reason in FINISH_REASONS},
    ),
    Family(
        "enginery_request_errors_total",
        "Requests refused or ended by an error",
        "cause",
        {cause: _failed(cause) for cause in ERROR_CAUSES},
    ),
)

_FIRST_TOKEN_SECONDS = (
    "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560"
)
_TOKEN_SECONDS = (
    "0.001 0.0025 0.005 0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80"
)
_REQUEST_SECONDS = (
    "0.01 0.05 0.1 0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680"
)
_TOKENS = "1 2 5 10 20 50 100 200 500 1000 2000 5000 10000 20000 50000 100000 200000 500000 1000000"
_STEP_SECONDS = (
    "0.0001 0.0002 0.0004 0.0008 0.0016 0.0032 0.0064 0.0128 0.0256 0.0512 0.1024 0.2048 0.4096 "
    "0.8192 1.6384 3.2768 6.5536 13.1072 26.2144 52.4288 104.8576 209.7152 419.4304 838.8608"
)
"""Those of `enginery_stats`."""
_TRT_LLM_TOKENS = "10 50 100 500 1000"

TIME_TO_FIRST_TOKEN = HistogramFamily(
    "enginery_time_to_first_token_seconds",
    "From the arrival of a request to its first token",
    _FIRST_TOKEN_SECONDS,
)
TIME_PER_OUTPUT_TOKEN = HistogramFamily(
    "enginery_time_per_output_token_seconds",
    "Mean time per token after the first, of sequences that stopped or reached max_tokens",
    _TOKEN_SECONDS,
)
INTER_TOKEN_LATENCY = HistogramFamily(
    "enginery_inter_token_latency_seconds",
    "Between tokens of a sequence that streams",
    _TOKEN_SECONDS,
)
E2E_REQUEST_LATENCY = HistogramFamily(
    "enginery_e2e_request_latency_seconds",
    "From the arrival of a request to its last token, of those that stopped or reached max_tokens",
    _REQUEST_SECONDS,
)
QUEUE_TIME = HistogramFamily(
    "enginery_request_queue_time_seconds",
    "From the arrival of a request to its first step",
    _REQUEST_SECONDS,
)
STEP_TIME = HistogramFamily(
    "enginery_step_time_seconds", "Time of a step, with the scheduler's share", _STEP_SECONDS
)
PROMPT_TOKENS = HistogramFamily(
    "enginery_request_prompt_tokens",
    "Prompt tokens of requests that stopped or reached max_tokens",
    _TOKENS,
)
GENERATION_TOKENS = HistogramFamily(
    "enginery_request_generation_tokens",
    "Tokens of sequences that stopped or reached max_tokens",
    _TOKENS,
)
INPUT_TOKENS = HistogramFamily(
    "nv_llm_input_token_len",
    PROMPT_TOKENS.help,
    _TRT_LLM_TOKENS,
    "response_metric_type",
    "total_input_tokens",
)
OUTPUT_TOKENS = HistogramFamily(
    "nv_llm_output_token_len",
    GENERATION_TOKENS.help,
    _TRT_LLM_TOKENS,
    "response_metric_type",
    "total_output_tokens",
)
HISTOGRAMS = (
    TIME_TO_FIRST_TOKEN, TIME_PER_OUTPUT_TOKEN, INTER_TOKEN_LATENCY, E2E_REQUEST_LATENCY,
    QUEUE_TIME, STEP_TIME, PROMPT_TOKENS, GENERATION_TOKENS, INPUT_TOKENS, OUTPUT_TOKENS,
)  # fmt: skip

TIMESTAMP = "enginery_metrics_timestamp_seconds"
TIMESTAMP_HELP = "Unix time; the other metrics are not older"
