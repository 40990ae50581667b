# SPDX-License-Identifier: Apache-2.0
"""A run's figures for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginery.bench.chunked_prefill import ScenarioResult
from enginery.bench.metrics import Distribution
from enginery.bench.run import RunResult

RULE = "=" * 78
COLUMNS = ("mean", "p50", "p90", "p95", "p99", "max")


def overview(title: str, result: RunResult) -> str:
    """The block "PERFORMANCE OVERVIEW" of one run."""
    metrics, occupancy = result.metrics, result.occupancy
    rates = {
        "Request throughput (req/s)": metrics.request_throughput,
        "Output throughput (tok/s)": metrics.output_throughput,
        "Total token throughput (tok/s)": metrics.total_token_throughput,
        "Output throughput per user (tok/s)": metrics.output_rate_per_request.mean,
        "Total latency (ms)": 1e3 * metrics.duration_s,
    }
    if metrics.request_goodput is not None:
        rates["Goodput (req/s)"] = metrics.request_goodput
    latencies = {
        "TTFT": metrics.ttft,
        "TPOT": metrics.tpot,
        "ITL": metrics.itl,
        "E2E": metrics.e2e,
        "delivery lag": metrics.delivery_lag,
    }
    lines = [
        RULE,
        f"= PERFORMANCE OVERVIEW: {title}",
        RULE,
        _pair("Requests: completed, failed", metrics.completed, metrics.failed),
        _pair("Tokens: input, output", metrics.total_input_tokens, metrics.total_output_tokens),
        *(f"{name:<42}{value:>12.2f}" for name, value in rates.items()),
        "",
        *latency_table(latencies),
        "",
        _pair("Batch: mean sequences, max", occupancy.mean_batch_size, result.max_batch_size),
        _pair(
            "KV blocks in use (%): mean, peak",
            *(100 * share for share in (occupancy.kv_utilisation, occupancy.max_kv_utilisation)),
        ),
        _pair("Steps: number, mean tokens", occupancy.num_iterations, occupancy.mean_num_tokens),
        _pair(
            "Shares (%): prefill of tokens, host of time",
            *(100 * share for share in (occupancy.prefill_token_share, occupancy.host_share)),
        ),
        _pair(
            "Preemptions, reused prompt tokens", metrics.num_preemptions, metrics.num_reused_tokens
        ),
    ]
    return "\n".join(lines)


def _pair(name: str, *values: float) -> str:
    shown = (f"{value:>12}" if isinstance(value, int) else f"{value:>12.2f}" for value in values)
    return f"{name:<42}" + "".join(shown)


def latency_table(latencies: Mapping[str, Distribution]) -> list[str]:
    """A line per latency, in milliseconds."""
    header = f"{'Latency (ms)':<14}" + "".join(f"{column:>10}" for column in COLUMNS)
    lines = [header]
    for name, distribution in latencies.items():
        values = (
            distribution.mean,
            distribution.p50,
            distribution.p90,
            distribution.p95,
            distribution.p99,
            distribution.maximum,
        )
        lines.append(f"{name:<14}" + "".join(f"{value:>10.2f}" for value in values))
    return lines


def comparison(results: Mapping[str, RunResult]) -> str:
    """Policies side by side on the same load; ratios are to the first."""
    baseline = next(iter(results.values())).metrics
    header = f"{'Policy':<22}{'tok/s':>10}{'ratio':>8}{'req/s':>9}{'TTFT p50':>12}{'TPOT p50':>11}"
    lines = [RULE, "= POLICIES, same load", RULE, header + f"{'E2E p99':>12}"]
    for name, result in results.items():
        metrics = result.metrics
        ratio = metrics.output_throughput / (baseline.output_throughput or 1.0)
        lines.append(
            f"{name:<22}{metrics.output_throughput:>10.1f}{ratio:>8.2f}"
            f"{metrics.request_throughput:>9.2f}{metrics.ttft.p50:>12.1f}"
            f"{metrics.tpot.p50:>11.2f}{metrics.e2e.p99:>12.1f}"
        )
    return "\n".join(lines)


def chunked_prefill(results: Sequence[ScenarioResult], prompt_len: int, num_decoding: int) -> str:
    """The chunked prefill scenario, a block per run."""
    lines = [
        RULE,
        f"= CHUNKED PREFILL: {prompt_len} tokens arrive among {num_decoding} decoding requests",
        RULE,
    ]
    for result in results:
        state = "on" if result.chunked else "off"
        lines += [
            f"chunked prefill {state}: TTFT of the long prompt {result.long_prompt_ttft_ms:.1f} ms",
            *latency_table({"TPOT": result.tpot, "ITL": result.itl}),
            "",
        ]
    return "\n".join(lines[:-1])
