# SPDX-License-Identifier: Apache-2.0
"""Where the time of one step goes: per kind of op, beside what the machine could do at most."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from enginery.bench.errors import BenchError
from enginery.runtime.engine import Engine
from enginery.runtime.profile import MachineLimits, ProfileRecord, measure_limits
from enginery.runtime.runtime import Iteration, Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams

DECODE_CONTEXT = 128
DECODE_BATCH = 16
"""Prompt tokens of the sequences that decode."""
ATTEMPTS = 5
"""How often a kind of step is run until enough of them were seen."""
DECODE_SLACK = 128
"""Tokens that a sequence may decode before and after the measured steps: while the others come."""


@dataclass(frozen=True)
class StepKind:
    """A step to be measured: the prefill of one prompt, or a decode of several sequences."""

    name: str
    num_sequences: int
    prompt_len: int
    is_prefill: bool


@dataclass(frozen=True)
class ProfilePlan:
    """What is measured."""

    kinds: Sequence[StepKind]
    repeats: int = 10
    """Steps of a kind; the figures are their medians."""
    warmup: int = 3
    """Steps of a kind before those."""
    seed: int = 0


@dataclass(frozen=True)
class OpFigures:
    """All calls of one kind of op in a step: medians over the steps."""

    op: str
    role: str
    unit: str
    num_calls: int
    time_us: float
    step_share: float
    """Of the step's time; 0 .. 1."""
    bytes: int
    operations: int
    gbytes_per_s: float
    gops_per_s: float
    limit: str
    """What bounds it on this machine: "memory", "compute", or "" where nothing is known."""
    limit_share: float | None
    """The least time that the limit allows, as a share of its time; None without a limit."""

    @property
    def name(self) -> str:
        """For people, e.g. "linear down_proj"."""
        return f"{self.op} {self.role}".rstrip()


@dataclass(frozen=True)
class StepFigures:
    """One kind of step: medians over its repeats, in microseconds."""

    kind: StepKind
    num_steps: int
    step_us: float
    executor_us: float
    ops_us: float
    """Of the executor's time: in the ops."""
    host_us: float
    """Scheduler, batch building, sampling, events: not in the executor."""
    limit_share: float | None
    """The least time that the limits allow all ops together, as a share of the step's time."""
    gemm_peak_share: float | None
    """Of the linears alone: their operations at the peak, as a share of their time."""
    ops: list[OpFigures]


@dataclass(frozen=True)
class ProfileResult:
    """What a profile gave."""

    executor_name: str
    limits: MachineLimits
    steps: list[StepFigures]


def plan_profile(
    engine: Engine, options: RuntimeOptions, *, prefill_len: int = 512, seed: int = 0
) -> ProfilePlan:
    """The steps that say most about an engine, within its limits and those of `options`.

    A prefill of `prefill_len` tokens, a decode of one sequence, and one of sixteen or as many as
    max_batch_size allows.
    """
    info = engine.info
    max_batch_size = options.max_batch_size or info.max_batch_size
    max_num_tokens = options.max_num_tokens or info.max_num_tokens
    chunk = options.max_chunk_tokens or max_num_tokens
    prefill_len = min(prefill_len, info.max_input_len, info.max_seq_len - 1, max_num_tokens, chunk)
    plan = ProfilePlan(kinds=[], seed=seed)
    room = info.max_seq_len - plan.warmup - plan.repeats - 2
    context = min(DECODE_CONTEXT, info.max_input_len, max(1, room // 2))
    batch = min(DECODE_BATCH, max_batch_size, max_num_tokens)
    kinds = [
        StepKind(f"prefill of {prefill_len} tokens", 1, prefill_len, True),
        StepKind("decode of 1 sequence", 1, context, False),
    ]
    if batch > 1:
        kinds.append(StepKind(f"decode of {batch} sequences", batch, context, False))
    return ProfilePlan(kinds, plan.repeats, plan.warmup, seed)


def run_profile(engine: Engine, options: RuntimeOptions, plan: ProfilePlan) -> ProfileResult:
    """Measures the machine's limits and every kind of step on one runtime.

    Raises:
        BenchError: the engine's limits leave no room for a kind of step, or too few were seen.
        NotSupportedError: the engine is not run by the built-in executor.
    """
    rng = np.random.default_rng(plan.seed)
    with Runtime(engine, options) as runtime:
        runtime.set_profiling(True)  # refuses before anything is measured
        isa = runtime.executor_name
        before = measure_limits(isa, options.num_threads)
        measured = []
        for kind in plan.kinds:
            iterations = _run_kind(runtime, engine, kind, plan, rng)
            measured.append((kind, iterations, runtime.profile()))
        limits = _larger(before, measure_limits(isa, options.num_threads))
        steps = [_step_figures(*step, limits) for step in measured]
        return ProfileResult(isa, limits, steps)


def profile_report(result: ProfileResult) -> dict[str, Any]:
    """A profile as JSON."""
    return {
        "executor": result.executor_name,
        "limits": vars(result.limits),
        "steps": [
            vars(step)
            | {"kind": vars(step.kind), "ops": [{"name": op.name} | vars(op) for op in step.ops]}
            for step in result.steps
        ],
    }


def _prompt(engine: Engine, length: int, rng: np.random.Generator) -> list[int]:
    # Random, so that no prefix is found in the cache.
    tokens: list[int] = rng.integers(engine.info.vocab_size, size=length).tolist()
    return tokens


def _params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True, temperature=0.0)


def _run_kind(
    runtime: Runtime, engine: Engine, kind: StepKind, plan: ProfilePlan, rng: np.random.Generator
) -> list[Iteration]:
    """Measured steps of a kind; what the runtime has profiled includes them."""
    run = _prefills if kind.is_prefill else _decodes
    # Sequences that decode come one by one: the first of them may end before the last has come.
    chosen: list[Iteration] = []
    for _ in range(ATTEMPTS):
        runtime.set_profiling(True)
        start = runtime.stats().num_iterations
        run(runtime, engine, kind, plan, rng)
        chosen = _chosen(runtime, kind, plan, start)
        if len(chosen) == plan.repeats:
            break
    if not chosen:
        raise BenchError(
            f"{kind.name}: no such step was seen; the KV cache may be too small for "
            f"{kind.num_sequences} sequences: raise --kv_cache_bytes or lower --max_batch_size"
        )
    return chosen


def _prefills(
    runtime: Runtime, engine: Engine, kind: StepKind, plan: ProfilePlan, rng: np.random.Generator
) -> None:
    for _ in range(plan.warmup + plan.repeats):
        runtime.submit(_prompt(engine, kind.prompt_len, rng), _params(1))
        _drain(runtime, 1)


def _decodes(
    runtime: Runtime, engine: Engine, kind: StepKind, plan: ProfilePlan, rng: np.random.Generator
) -> None:
    num_wanted = plan.warmup + plan.repeats + 1
    max_tokens = min(num_wanted + DECODE_SLACK, engine.info.max_seq_len - kind.prompt_len)
    if max_tokens < num_wanted:
        raise BenchError(
            f"{kind.name}: max_seq_len is {engine.info.max_seq_len}, the measured steps need "
            f"{kind.prompt_len + num_wanted}"
        )
    ids = [
        runtime.submit(_prompt(engine, kind.prompt_len, rng), _params(max_tokens))
        for _ in range(kind.num_sequences)
    ]
    # Admission is in order: when the last has decoded enough, all did beside it.
    num_tokens = 0
    num_open = len(ids)
    while num_tokens < num_wanted and num_open > 0:
        for event in runtime.poll(1000):
            num_tokens += len(event.token_ids) if event.request_id == ids[-1] else 0
            num_open -= event.is_last
    for request_id in ids:
        runtime.cancel(request_id)
    _drain(runtime, num_open)


def _drain(runtime: Runtime, num_open: int) -> None:
    """Waits until `num_open` requests have ended."""
    while num_open > 0:
        events = runtime.poll(1000)
        for event in events:
            if event.finish_reason == "ERROR":
                raise BenchError(f"profile: a request failed: {event.error}")
            num_open -= event.is_last


def _chosen(runtime: Runtime, kind: StepKind, plan: ProfilePlan, start: int) -> list[Iteration]:
    """The measured steps of a kind among those from `start` on."""

    def fits(entry: Iteration) -> bool:
        tokens = (entry.num_prefill_tokens, entry.num_decode_tokens)
        wanted = (kind.prompt_len, 0) if kind.is_prefill else (0, kind.num_sequences)
        return entry.num_sequences == kind.num_sequences and tokens == wanted

    chosen = [e for e in runtime.iterations() if e.iteration >= start and fits(e)]
    return chosen[plan.warmup : plan.warmup + plan.repeats]


def _step_figures(
    kind: StepKind,
    iterations: Sequence[Iteration],
    records: Sequence[ProfileRecord],
    limits: MachineLimits,
) -> StepFigures:
    wanted = {entry.iteration for entry in iterations}
    by_op: dict[tuple[str, str, str], list[ProfileRecord]] = {}
    ops_ns = dict.fromkeys(wanted, 0)
    for record in records:
        if record.iteration in wanted:
            by_op.setdefault((record.op, record.role, record.unit), []).append(record)
            ops_ns[record.iteration] += record.duration_ns
    step_us = _median([entry.duration_ns for entry in iterations]) / 1e3
    ops = [_op_figures(group, step_us, limits) for group in by_op.values()]
    least = sum(op.time_us * op.limit_share for op in ops if op.limit_share is not None)
    has_limits = any(op.limit_share is not None for op in ops)
    return StepFigures(
        kind=kind,
        num_steps=len(iterations),
        step_us=step_us,
        executor_us=_median([entry.executor_ns for entry in iterations]) / 1e3,
        ops_us=_median(list(ops_ns.values())) / 1e3,
        host_us=_median([e.duration_ns - e.executor_ns for e in iterations]) / 1e3,
        limit_share=least / step_us if has_limits else None,
        gemm_peak_share=_gemm_peak_share(ops, limits),
        ops=ops,
    )


def _op_figures(
    records: Sequence[ProfileRecord], step_us: float, limits: MachineLimits
) -> OpFigures:
    first = records[0]
    time_us = _median([record.duration_ns for record in records]) / 1e3
    num_bytes = round(_median([record.bytes for record in records]))
    operations = round(_median([record.operations for record in records]))
    peak = limits.peak(first.unit)
    memory_us = 1e6 * num_bytes / limits.memory_bandwidth
    compute_us = 1e6 * operations / peak if peak else 0.0
    limit_us = max(memory_us, compute_us)
    return OpFigures(
        op=first.op,
        role=first.role,
        unit=first.unit,
        num_calls=first.num_calls,
        time_us=time_us,
        step_share=time_us / step_us,
        bytes=num_bytes,
        operations=operations,
        gbytes_per_s=_rate(num_bytes, time_us),
        gops_per_s=_rate(operations, time_us),
        limit="" if limit_us == 0 else "memory" if memory_us >= compute_us else "compute",
        limit_share=limit_us / time_us if limit_us and time_us else None,
    )


def _gemm_peak_share(ops: Sequence[OpFigures], limits: MachineLimits) -> float | None:
    linears = [op for op in ops if op.op.startswith("linear")]
    time_us = sum(op.time_us for op in linears)
    if time_us == 0 or any(limits.peak(op.unit) == 0 for op in linears):
        return None
    return sum(1e6 * op.operations / limits.peak(op.unit) for op in linears) / time_us


def _larger(a: MachineLimits, b: MachineLimits) -> MachineLimits:
    """The larger of each figure: other load on the machine only lowers them."""
    names = MachineLimits.__dataclass_fields__
    return MachineLimits(**{name: max(getattr(a, name), getattr(b, name)) for name in names})


def _median(values: Sequence[int]) -> float:
    return float(statistics.median(values))


def _rate(count: int, time_us: float) -> float:
    """In units of 1e9 per second."""
    return count / time_us / 1e3 if time_us else 0.0
