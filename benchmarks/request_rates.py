# SPDX-License-Identifier: Apache-2.0
"""How latency grows with load: the same requests at rising rates, Poisson arrivals.

    python benchmarks/request_rates.py ENGINE --rates 0.5 1 2 4 --goodput ttft:500 tpot:100 \
        --output benchmarks/results/rates.json

The first run is offline, all requests at once: its throughput is what the engine can do. Each rate
is then run with the same prompts and output lengths. The table shows where TTFT leaves the ground;
goodput counts requests within the objectives.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from enginery.bench.environment import describe_engine, describe_machine, describe_versions
from enginery.bench.report import run_report, write_json
from enginery.bench.run import Load, RunResult, run_load
from enginery.bench.workload import Span, arrival_times, random_requests
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import RuntimeOptions

COLUMNS = (
    ("rate", 8), ("req/s", 8), ("tok/s", 9), ("goodput", 9), ("TTFT p50", 10), ("TTFT p99", 10),
    ("TPOT p50", 10), ("TPOT p99", 10), ("batch", 7),
)  # fmt: skip


def main() -> int:
    """Measures and prints; 1 when a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", help="engine directory")
    parser.add_argument("--rates", type=float, nargs="+", required=True, help="requests per second")
    parser.add_argument("--num_prompts", type=int, default=64)
    parser.add_argument("--input_len", type=Span.parse, default="128")
    parser.add_argument("--output_len", type=Span.parse, default="16-128")
    parser.add_argument("--burstiness", type=float, default=1.0)
    parser.add_argument("--goodput", nargs="+", default=[], metavar="NAME:MS")
    parser.add_argument("--num_threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON")
    args = parser.parse_args()
    objectives = {name: float(ms) for name, _, ms in (o.partition(":") for o in args.goodput)}
    print("".join(f"{name:>{width}}" for name, width in COLUMNS))
    runs: list[dict[str, Any]] = []
    num_failed = 0
    with Engine(args.engine) as engine:
        header = {"machine": describe_machine(), "versions": describe_versions()}
        for rate in (math.inf, *args.rates):
            rng = np.random.default_rng(args.seed)
            vocab_size = engine.info.vocab_size
            requests = random_requests(
                args.num_prompts, args.input_len, args.output_len, vocab_size, rng
            )
            load = Load(
                requests=requests,
                arrivals=arrival_times(len(requests), rate, args.burstiness, rng),
                warmup=random_requests(4, Span(16, 16), Span(16, 16), vocab_size, rng),
                objectives_ms=objectives,
            )
            result = run_load(engine, RuntimeOptions(num_threads=args.num_threads), load)
            num_failed += result.metrics.failed
            print(_row(rate, result), flush=True)
            runs.append(
                run_report(
                    result,
                    engine=describe_engine(engine),
                    issue_rate=rate,
                    dataset={"name": "random", "seed": args.seed},
                )
            )
    if args.output is not None:
        write_json(args.output, header | {"runs": runs})
    return 1 if num_failed else 0


def _row(rate: float, result: RunResult) -> str:
    metrics = result.metrics
    goodput = metrics.request_goodput
    cells = (
        f"{rate:g}",
        f"{metrics.request_throughput:.2f}",
        f"{metrics.output_throughput:.1f}",
        "-" if goodput is None else f"{goodput:.2f}",
        f"{metrics.ttft.p50:.1f}",
        f"{metrics.ttft.p99:.1f}",
        f"{metrics.tpot.p50:.2f}",
        f"{metrics.tpot.p99:.2f}",
        f"{result.occupancy.mean_batch_size:.2f}",
    )
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
