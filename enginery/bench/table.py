# SPDX-License-Identifier: Apache-2.0
"""A run's figures for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginery.bench.chunked_prefill import ScenarioResult
from enginery.bench.metrics import Distribution
from enginery.bench.profile import OpFigures, ProfileResult, StepFigures
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


def profile(result: ProfileResult) -> str:
    """Where a step's time goes, a block per kind of step."""
    limits = result.limits
    peaks = [
        f"{unit} {peak / 1e9:.0f}" for unit in ("f32", "bf16", "i8") if (peak := limits.peak(unit))
    ]
    lines = [
        f"limits  {result.executor_name}, {limits.num_threads} threads: memory "
        f"{limits.memory_bandwidth / 1e9:.1f} GB/s; products "
        + (f"{', '.join(peaks)} Gop/s" if peaks else "not known"),
    ]
    for step in result.steps:
        lines += ["", *_profiled_step(step)]
    return "\n".join(lines)


def _profiled_step(step: StepFigures) -> list[str]:
    lines = [
        RULE,
        f"= PROFILE: {step.kind.name}, median of {step.num_steps} steps",
        RULE,
        f"{'op':<30}{'calls':>6}{'us':>10}{'step %':>8}{'MB':>9}{'GB/s':>8}{'Gop/s':>9}  limit %",
        *(_profiled_op(op) for op in step.ops),
        "",
    ]
    times = {
        "step": step.step_us,
        "executor": step.executor_us,
        "executor, outside ops": max(0.0, step.executor_us - step.ops_us),
        "outside the executor": step.host_us,
    }
    for name, time_us in times.items():
        lines.append(f"{name:<30}{time_us:>10.0f}{100 * time_us / step.step_us:>8.1f}")
    if step.limit_share is not None:
        lines.append(f"step: {100 * step.limit_share:.0f} % of what memory and products allow")
    if step.gemm_peak_share is not None and step.kind.is_prefill:
        lines.append(f"GEMMs alone: {100 * step.gemm_peak_share:.0f} % of the peak")
    return lines


def _profiled_op(op: OpFigures) -> str:
    share = "" if op.limit_share is None else f"{100 * op.limit_share:.0f} ({op.limit})"
    return (
        f"{op.name:<30}{op.num_calls:>6}{op.time_us:>10.0f}{100 * op.step_share:>8.1f}"
        f"{op.bytes / 1e6:>9.1f}{op.gbytes_per_s:>8.1f}{op.gops_per_s:>9.0f}  {share}"
    ).rstrip()
