# SPDX-License-Identifier: Apache-2.0
"""A run's figures as JSON, in the names of trtllm-bench and of vLLM's benchmark."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from enginery.bench.chunked_prefill import ScenarioResult
from enginery.bench.metrics import Distribution, RequestRecord
from enginery.bench.run import RunResult


def run_report(
    result: RunResult, *, engine: dict[str, Any], issue_rate: float, dataset: dict[str, Any]
) -> dict[str, Any]:
    """One run: trtllm-bench's nested sections, vLLM's flat keys beside them, and our own.

    Args:
        result: the run.
        engine: from `describe_engine`.
        issue_rate: requests per second asked for; infinity is written as null.
        dataset: how the requests were made.
    """
    return {
        **_vllm_keys(result),
        **_trtllm_sections(result, engine, issue_rate, dataset),
        "runtime": {
            "executor": result.executor_name,
            "options": dataclasses.asdict(result.options),
            "num_blocks": result.num_blocks,
            **dataclasses.asdict(result.occupancy),
            "delivery_lag_ms": percentiles(result.metrics.delivery_lag),
            "num_preemptions": result.metrics.num_preemptions,
            "num_reused_tokens": result.metrics.num_reused_tokens,
        },
    }


def _vllm_keys(result: RunResult) -> dict[str, Any]:
    metrics, records = result.metrics, result.records
    keys: dict[str, Any] = {
        "duration": metrics.duration_s,
        "completed": metrics.completed,
        "failed": metrics.failed,
        "total_input_tokens": metrics.total_input_tokens,
        "total_output_tokens": metrics.total_output_tokens,
        "request_throughput": metrics.request_throughput,
        "request_goodput": metrics.request_goodput,
        "output_throughput": metrics.output_throughput,
        "total_token_throughput": metrics.total_token_throughput,
        "max_output_tokens_per_s": metrics.max_output_tokens_per_s,
        "max_concurrent_requests": metrics.max_concurrent_requests,
    }
    for name, distribution in (
        ("ttft", metrics.ttft),
        ("tpot", metrics.tpot),
        ("itl", metrics.itl),
        ("e2el", metrics.e2e),
    ):
        keys[f"mean_{name}_ms"] = distribution.mean
        keys[f"median_{name}_ms"] = distribution.p50
        keys[f"std_{name}_ms"] = distribution.std
        for percentile in ("p50", "p90", "p95", "p99"):
            keys[f"{percentile}_{name}_ms"] = getattr(distribution, percentile)
    begin = min((record.submit_time for record in records), default=0.0)
    keys |= {
        "input_lens": [record.num_prompt_tokens for record in records],
        "output_lens": [record.num_output_tokens for record in records],
        # vLLM keeps these in seconds.
        "ttfts": [r.ttft_ms / 1e3 if r.is_complete else None for r in records],
        "itls": [[gap / 1e3 for gap in r.itls_ms] for r in records],
        "latencies": [r.e2e_ms / 1e3 if r.is_complete else None for r in records],
        "start_times": [record.submit_time - begin for record in records],
        "errors": [record.error or "" for record in records],
    }
    return keys


def _trtllm_sections(
    result: RunResult, engine: dict[str, Any], issue_rate: float, dataset: dict[str, Any]
) -> dict[str, Any]:
    metrics, records = result.metrics, result.records
    count = max(len(records), 1)
    return {
        "engine": engine,
        "world_info": {
            "tp_size": engine["tp_size"],
            "pp_size": 1,
            "ep_size": 1,
            "world_size": engine["tp_size"],
            "max_batch_size": result.max_batch_size,
            "max_num_tokens": result.max_num_tokens,
            "scheduling_policy": result.options.policy,
            "kv_cache_percentage": None,
            "issue_rate": finite_or_none(issue_rate),
        },
        "request_info": {
            "num_requests": len(records),
            "avg_num_concurrent_requests": metrics.mean_concurrent_requests,
            "avg_input_length": sum(r.num_prompt_tokens for r in records) / count,
            "avg_output_length": sum(r.num_output_tokens for r in records) / count,
        },
        "performance": {
            "total_latency_ms": 1e3 * metrics.duration_s,
            "avg_request_latency_ms": metrics.e2e.mean,
            "request_throughput_req_s": metrics.request_throughput,
            "system_output_throughput_tok_s": metrics.output_throughput,
            "system_total_throughput_tok_s": metrics.total_token_throughput,
            "output_throughput_per_user_tok_s": metrics.output_rate_per_request.mean,
            "output_throughput_per_gpu_tok_s": None,
            "request_latency_percentiles_ms": percentiles(metrics.e2e),
        },
        "streaming_metrics": {
            "token_output_speed_tok_s": metrics.generation_rate_per_request.mean,
            "avg_ttft_ms": metrics.ttft.mean,
            "avg_tpot_ms": metrics.tpot.mean,
            "tpot_percentiles": percentiles(metrics.tpot),
            "ttft_percentiles": percentiles(metrics.ttft),
            "gen_tps_percentiles": percentiles(metrics.generation_rate_per_request),
        },
        "decoding_stats": None,
        "dataset": dataset,
    }


def percentiles(distribution: Distribution) -> dict[str, float]:
    """A distribution under trtllm-bench's keys."""
    return {
        "minimum": distribution.minimum,
        "maximum": distribution.maximum,
        "average": distribution.mean,
        "p50": distribution.p50,
        "p90": distribution.p90,
        "p95": distribution.p95,
        "p99": distribution.p99,
    }


def scenario_report(result: ScenarioResult) -> dict[str, Any]:
    """One run of the chunked prefill scenario."""
    return {
        "enable_chunked_context": result.chunked,
        "tpot_ms": percentiles(result.tpot),
        "itl_ms": percentiles(result.itl),
        "long_prompt_ttft_ms": result.long_prompt_ttft_ms,
    }


def finite_or_none(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes a report; refuses values that are not JSON, such as NaN."""
    text = json.dumps(report, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def write_raw(path: Path, records: list[RequestRecord]) -> None:
    """Writes one JSON line per request: its times, in seconds, and its tokens when kept."""
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(dataclasses.asdict(record), allow_nan=False) + "\n")
