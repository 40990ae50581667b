# SPDX-License-Identifier: Apache-2.0
"""Speed of one engine under loads of 1 to 128 sequences, and of a long prompt.

    python -m benchmarks.gpu.throughput ENGINE [--emulate] [--loads 1,64,16,128] ...

Every request has its own random prompt; tokens are drawn from the whole vocabulary (temperature
1). A hollow engine must be filled before (`fill`). Outcomes go to $OUT/outcomes.jsonl as soon as
they are known.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.executors import make_executor
from benchmarks.gpu.limits import OPERANDS, measured_limits
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.work import ModelWork
from enginery.bench.client import LoadClient
from enginery.bench.metrics import measure
from enginery.bench.workload import BenchRequest, Span, random_requests
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Iteration, Runtime, RuntimeOptions


@dataclass(frozen=True)
class Sizes:
    """Lengths of the loads, in tokens."""

    prompt: int = 128
    output: int = 128
    long_prompt: int = 2048


class Bench:
    """An engine with its runtime, and the loads that are put on it."""

    def __init__(
        self,
        path: Path,
        *,
        emulate: bool,
        programmatic_launch: bool,
        kv_tokens: int,
        sizes: Sizes,
    ) -> None:
        begin = time.perf_counter()
        self.engine = Engine(path)
        info = self.engine.info
        executor = make_executor(
            self.engine, emulate=emulate, programmatic_launch=programmatic_launch
        )
        options = RuntimeOptions(
            kv_cache_bytes=kv_tokens * info.kv_bytes_per_token,
            enable_block_reuse=False,
            iteration_stats_capacity=100_000,
        )
        self.runtime = Runtime(self.engine, options, executor=executor)
        self.load_s = time.perf_counter() - begin
        longest = min(sizes.long_prompt, info.max_input_len, info.max_seq_len - 1)
        self.sizes = dataclasses.replace(sizes, long_prompt=longest)
        description = self.engine.describe()
        self.work = ModelWork.of(description, info.kv_bytes_per_token)
        self.qformat = info.qformat
        self._rng = np.random.default_rng(0)

    def loaded(self) -> Outcome:
        """How long loading took, and what the engine is."""
        info, stats = self.engine.info, self.runtime.stats()
        return {
            "load_s": self.load_s,
            "weight_bytes": info.weight_bytes,
            "load_gb_per_s": info.weight_bytes / self.load_s / 1e9,
            "num_blocks": stats.num_blocks,
            "workspace_bytes": stats.workspace_bytes,
            "kv_bytes_per_token": info.kv_bytes_per_token,
            "executor": self.runtime.executor_name,
        }

    def warm_up(self, num_sequences: int) -> Outcome:
        """Runs a short load, in which what happens once per size happens."""
        begin = time.perf_counter()
        self._run(num_sequences, self.sizes.prompt, min(8, self.sizes.output))
        return {"warm_up_s": time.perf_counter() - begin}

    def decode(self, num_sequences: int) -> Outcome:
        """So many requests at once, from prompt to last token."""
        records, iterations = self._run(num_sequences, self.sizes.prompt, self.sizes.output)
        metrics = measure(records)
        out: Outcome = {
            "num_sequences": num_sequences,
            "prompt_tokens": self.sizes.prompt,
            "output_tokens": self.sizes.output,
            "ttft_ms_p50": metrics.ttft.p50,
            "ttft_ms_mean": metrics.ttft.mean,
            "tpot_ms_mean": metrics.tpot.mean,
            "output_tokens_per_s": metrics.output_throughput,
            "duration_s": metrics.duration_s,
            "preemptions": metrics.num_preemptions,
        }
        full = [
            it
            for it in iterations
            if it.num_prefill_tokens == 0 and it.num_sequences == num_sequences
        ]
        if full:
            step_ms = statistics.median(it.duration_ns for it in full) / 1e6
            context = self.sizes.prompt + self.sizes.output / 2
            rate = self.work.decode_bytes(num_sequences, context) / step_ms / 1e6
            out |= {
                "decode_step_ms": step_ms,
                "executor_ms": statistics.median(it.executor_ns for it in full) / 1e6,
                "decode_gb_per_s": rate,
            }
            if "gb_per_s" in (limits := measured_limits()):
                out["share_of_bandwidth"] = rate / limits["gb_per_s"]
        return out

    def prefill(self) -> Outcome:
        """One long prompt, three times; the median of its TTFT."""
        tokens = self.sizes.long_prompt
        times = []
        for _ in range(3):
            records, _iterations = self._run(1, tokens, 1)
            times.append(records[0].ttft_ms)
        ttft_ms = statistics.median(times)
        rate = self.work.prefill_ops(tokens) / ttft_ms / 1e9
        out: Outcome = {"prompt_tokens": tokens, "ttft_ms": ttft_ms, "tera_ops_per_s": rate}
        operands = OPERANDS[self.qformat]
        if operands in (limits := measured_limits()):
            out[f"share_of_{operands}_rate"] = rate / limits[operands]
        return out

    def _run(
        self, num_sequences: int, prompt: int, output: int
    ) -> tuple[Sequence[Any], list[Iteration]]:
        requests: list[BenchRequest] = random_requests(
            num_sequences, Span(prompt, prompt), Span(output, output),
            self.engine.info.vocab_size, self._rng,
        )  # fmt: skip
        begin = time.monotonic_ns()
        records = LoadClient(self.runtime).run(requests, np.zeros(num_sequences))
        failed = [record.error or record.finish_reason for record in records if not _is_ok(record)]
        if failed:
            raise RuntimeError(f"{len(failed)} requests failed, the first: {failed[0]}")
        return records, [it for it in self.runtime.iterations() if it.start_ns >= begin]


def _is_ok(record: Any) -> bool:
    return record.error is None and bool(record.is_complete)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one engine")
    parser.add_argument("engine", type=Path)
    parser.add_argument("--emulate", action="store_true", help="with no GPU, to try this program")
    parser.add_argument("--loads", default="1,64,16,128", help="numbers of sequences, in order")
    parser.add_argument("--prompt", type=int, default=Sizes.prompt)
    parser.add_argument("--output", type=int, default=Sizes.output)
    parser.add_argument("--long_prompt", type=int, default=Sizes.long_prompt)
    parser.add_argument("--kv_tokens", type=int, default=65536, help="size of the KV cache")
    parser.add_argument(
        "--no_programmatic_launch", action="store_true",
        help="start each kernel when the one before it is over",
    )  # fmt: skip
    args = parser.parse_args()
    name = args.engine.name
    if args.no_programmatic_launch:
        name += " without programmatic launch"
    steps = Steps("throughput")
    sizes = Sizes(args.prompt, args.output, args.long_prompt)
    bench: Bench | None = None

    def load() -> Outcome:
        nonlocal bench
        bench = Bench(
            args.engine,
            emulate=args.emulate,
            programmatic_launch=not args.no_programmatic_launch,
            kv_tokens=args.kv_tokens,
            sizes=sizes,
        )
        return bench.loaded()

    steps.run(f"{name}: load", load)
    if bench is None:
        return
    steps.run(f"{name}: warm-up, prefill", bench.prefill)
    for num_sequences in [int(text) for text in args.loads.split(",")]:
        warm_up = functools.partial(bench.warm_up, num_sequences)
        steps.run(f"{name}: warm-up, {num_sequences} sequences", warm_up)
        measured = functools.partial(bench.decode, num_sequences)
        steps.run(f"{name}: {num_sequences} sequences", measured)
    steps.run(f"{name}: prefill", bench.prefill)
    bench.runtime.close()
    bench.engine.close()
    steps.summary()


if __name__ == "__main__":
    main()
