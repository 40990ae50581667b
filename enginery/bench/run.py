# SPDX-License-Identifier: Apache-2.0
"""One measured run: a fresh runtime, a warm-up, a workload, its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from enginery.bench.client import LoadClient
from enginery.bench.errors import BenchError
from enginery.bench.metrics import Metrics, RequestRecord, measure
from enginery.bench.occupancy import Occupancy, summarise
from enginery.bench.workload import BenchRequest, FloatArray
from enginery.runtime.engine import Engine, EngineInfo
from enginery.runtime.runtime import Runtime, RuntimeOptions

ITERATION_STATS_CAPACITY = 1_000_000


@dataclass(frozen=True)
class Load:
    """What every run of a comparison is given, so that only what is compared differs."""

    requests: Sequence[BenchRequest]
    arrivals: FloatArray
    warmup: Sequence[BenchRequest] = ()
    """Run before, all at once, and not measured."""
    concurrency: int | None = None
    seed: int = 0
    objectives_ms: Mapping[str, float] | None = None


@dataclass(frozen=True)
class RunResult:
    """Everything that a run gave."""

    options: RuntimeOptions
    executor_name: str
    num_blocks: int
    max_batch_size: int
    max_num_tokens: int
    records: list[RequestRecord]
    metrics: Metrics
    occupancy: Occupancy


def run_load(
    engine: Engine, options: RuntimeOptions, load: Load, *, keep_token_ids: bool = False
) -> RunResult:
    """Runs `load` on a fresh runtime and measures it.

    Raises:
        BenchError: a request does not fit the engine; lists them.
        EngineryError: the runtime cannot be made with these options.
    """
    check_requests([*load.requests, *load.warmup], engine.info)
    with Runtime(engine, options) as runtime:
        client = LoadClient(runtime, concurrency=load.concurrency, keep_token_ids=keep_token_ids)
        if load.warmup:
            client.run(load.warmup, np.zeros(len(load.warmup)))
        records = client.run(load.requests, load.arrivals, seed=load.seed)
        begin = min(record.submit_time for record in records)
        num_blocks = runtime.stats().num_blocks
        max_batch_size = options.max_batch_size or engine.info.max_batch_size
        return RunResult(
            options=options,
            executor_name=runtime.executor_name,
            num_blocks=num_blocks,
            max_batch_size=max_batch_size,
            max_num_tokens=options.max_num_tokens or engine.info.max_num_tokens,
            records=records,
            metrics=measure(records, load.objectives_ms),
            occupancy=summarise(
                runtime.iterations(),
                begin_s=begin,
                max_batch_size=max_batch_size,
                num_blocks=num_blocks,
            ),
        )


def check_requests(requests: Sequence[BenchRequest], info: EngineInfo) -> None:
    """Refuses a workload that the engine cannot run; a benchmark must not drop requests."""
    longest = max((len(r.prompt_token_ids) for r in requests), default=0)
    total = max((len(r.prompt_token_ids) + r.output_tokens for r in requests), default=0)
    problems = []
    if longest > info.max_input_len:
        problems.append(
            f"the longest prompt has {longest} tokens; the engine's max_input_len is "
            f"{info.max_input_len}"
        )
    if total > info.max_seq_len:
        problems.append(
            f"the longest request needs {total} tokens; the engine's max_seq_len is "
            f"{info.max_seq_len}"
        )
    if problems:
        raise BenchError(
            "; ".join(problems)
            + ". Ask for shorter requests, or build the engine with larger limits"
        )
