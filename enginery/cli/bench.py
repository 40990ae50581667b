# SPDX-License-Identifier: Apache-2.0
"""Measure an engine's throughput and latencies under load, in this process.

A run submits prompts as they would arrive at a server and reports TTFT, TPOT, ITL and end-to-end
latency, throughput, goodput, batch occupancy and KV utilisation. Several policies run the same
load one after the other. With --chunked_prefill_scenario a long prompt arrives among decoding
requests instead, once with chunked prefill and once without. With --profile single steps are
measured instead: the time of each kind of op, what it reads and multiplies, and its share of what
this machine does at most, which short loops find in the same run (cpu executor only).

Tokens are timed when the runtime has them; how much later this process held them is shown as
delivery lag.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from enginery.bench import chunked_prefill, profile, table
from enginery.bench.environment import describe_engine, describe_machine, describe_versions
from enginery.bench.errors import BenchError
from enginery.bench.metrics import OBJECTIVES
from enginery.bench.report import (
    finite_or_none,
    run_report,
    scenario_report,
    write_json,
    write_raw,
)
from enginery.bench.run import Load, RunResult, run_load
from enginery.bench.workload import (
    BenchRequest,
    Span,
    arrival_times,
    random_requests,
    read_dataset,
)
from enginery.cli.executor_flags import add_executor_flags, add_thread_flags, executor_options
from enginery.cli.flags import FlagParser
from enginery.runtime.abi import POLICIES
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import RuntimeOptions
from enginery.runtime.tokenizer import Tokenizer

# The warm-up must not fill the prefix cache with the prompts that are measured.
WARMUP_SEED_OFFSET = 1_000_003


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery bench`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("engine", metavar="ENGINE", help="engine directory")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--num_prompts", "--num_requests", type=_positive, default=64, metavar="N", help="(64)"
    )
    load.add_argument(
        "--input_len", type=_span, default="128", metavar="N|N-M", help="prompt tokens (128)"
    )
    load.add_argument(
        "--output_len", type=_span, default="16-128", metavar="N|N-M", help="new tokens (16-128)"
    )
    load.add_argument(
        "--dataset", type=Path, metavar="FILE", help="prompts from JSON lines: prompt or input_ids"
    )
    load.add_argument(
        "--shared_prefix_len", type=_count, default=0, metavar="N", help="equal first tokens (0)"
    )
    load.add_argument(
        "--request_rate", type=_rate, default="inf", metavar="R", help="per second (inf: at once)"
    )
    load.add_argument(
        "--burstiness", type=_rate, default="1", metavar="B", help="1: Poisson; below: bursts"
    )
    load.add_argument(
        "--concurrency",
        "--max_concurrency",
        type=_positive,
        metavar="N",
        help="requests in flight at most (no bound)",
    )
    load.add_argument("--warmup", type=_count, default=4, metavar="N", help="requests (4)")
    load.add_argument("--seed", type=_count, default=0)
    load.add_argument(
        "--goodput",
        nargs="+",
        type=_objective,
        default=[],
        metavar="NAME:MS",
        help=f"latency objectives, of {', '.join(OBJECTIVES)}",
    )
    runtime = parser.add_argument_group("runtime")
    runtime.add_argument(
        "--policy",
        nargs="+",
        choices=sorted(POLICIES),
        default=["GUARANTEED_NO_EVICT"],
        metavar="POLICY",
        help=f"of {', '.join(POLICIES)}; several run the same load, ratios are to the first",
    )
    for name, meaning in (
        ("max_batch_size", "sequences in a step (the engine's)"),
        ("max_num_tokens", "packed tokens in a step (the engine's)"),
        ("kv_cache_bytes", "budget of the KV cache"),
        ("chunk_tokens", "longest piece of a prompt in a step"),
    ):
        runtime.add_argument(f"--{name}", type=_positive, default=0, metavar="N", help=meaning)
    add_thread_flags(runtime)
    runtime.add_argument("--isa", choices=("auto", "amx", "avx512", "avx2", "portable"))
    runtime.add_argument("--chunked_prefill", choices=("on", "off"), default="on")
    runtime.add_argument("--block_reuse", choices=("on", "off"), default="on")
    add_executor_flags(parser)
    scenario = parser.add_argument_group("chunked prefill scenario")
    scenario.add_argument("--chunked_prefill_scenario", action="store_true")
    scenario.add_argument("--long_prompt_len", type=_positive, default=4096, metavar="N")
    scenario.add_argument("--num_decoding", type=_positive, default=8, metavar="N")
    steps = parser.add_argument_group("profile")
    steps.add_argument(
        "--profile", action="store_true", help="a prefill step and decode steps, op by op"
    )
    steps.add_argument(
        "--profile_prefill_len", type=_positive, default=512, metavar="N", help="tokens (512)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--output_json", type=Path, metavar="FILE")
    output.add_argument(
        "--raw", type=Path, metavar="DIR", help="writes one JSON line per request and run"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark; 1 when a request failed, else 0."""
    options = RuntimeOptions(
        kv_cache_bytes=args.kv_cache_bytes,
        max_batch_size=args.max_batch_size,
        max_num_tokens=args.max_num_tokens,
        num_threads=args.num_threads,
        pin_threads=args.pin_threads,
        isa=args.isa,
        enable_chunked_context=args.chunked_prefill == "on",
        max_chunk_tokens=args.chunk_tokens,
        enable_block_reuse=args.block_reuse == "on",
    )
    with Engine(args.engine) as engine:
        options = replace(options, **executor_options(args, engine))
        header = {
            "versions": describe_versions(),
            "machine": describe_machine(),
            "command": _command_of(args),
        }
        _print_header(engine, header)
        if args.emulate:
            print("emulated: the times below are this machine's and say nothing about a GPU")
        if args.profile:
            return _run_profile(args, engine, options, header)
        if args.raw is not None:
            args.raw.mkdir(parents=True, exist_ok=True)
        if args.chunked_prefill_scenario:
            return _run_scenario(args, engine, options, header)
        return _run_load(args, engine, options, header)


def _run_load(
    args: argparse.Namespace, engine: Engine, options: RuntimeOptions, header: dict[str, Any]
) -> int:
    rng = np.random.default_rng(args.seed)
    requests, dataset = _make_requests(args, engine, rng)
    warmup_rng = np.random.default_rng(args.seed + WARMUP_SEED_OFFSET)
    load = Load(
        requests=requests,
        arrivals=arrival_times(len(requests), args.request_rate, args.burstiness, rng),
        warmup=_random_requests(args, args.warmup, engine, warmup_rng),
        concurrency=args.concurrency,
        seed=args.seed,
        objectives_ms=dict(args.goodput),
    )
    results: dict[str, RunResult] = {}
    for policy in dict.fromkeys(args.policy):
        results[policy] = run_load(engine, replace(options, policy=policy), load)
        print(table.overview(policy, results[policy]), flush=True)
        if args.raw is not None:
            write_raw(args.raw / f"{policy.lower()}.jsonl", results[policy].records)
    if len(results) > 1:
        print(table.comparison(results))
    if args.output_json is not None:
        reports = {
            policy: header
            | _vllm_header(args, engine, len(requests))
            | run_report(
                result,
                engine=describe_engine(engine),
                issue_rate=args.request_rate,
                dataset=dataset,
            )
            for policy, result in results.items()
        }
        (first, *others) = reports.values()
        write_json(args.output_json, header | {"runs": reports} if others else first)
    return 1 if any(result.metrics.failed for result in results.values()) else 0


def _run_scenario(
    args: argparse.Namespace, engine: Engine, options: RuntimeOptions, header: dict[str, Any]
) -> int:
    scenario = chunked_prefill.Scenario(
        prompt_len=args.long_prompt_len, num_decoding=args.num_decoding, seed=args.seed
    )
    if args.chunk_tokens:
        scenario = replace(scenario, chunk_tokens=args.chunk_tokens)
    # The first run pays for touching the weights and the KV cache for the first time.
    chunked_prefill.run_scenario(engine, options, scenario, chunked=True)
    results = [
        chunked_prefill.run_scenario(engine, options, scenario, chunked=chunked)
        for chunked in (True, False)
    ]
    print(table.chunked_prefill(results, scenario.prompt_len, scenario.num_decoding))
    if args.raw is not None:
        for result in results:
            name = "chunked_on" if result.chunked else "chunked_off"
            write_raw(args.raw / f"{name}.jsonl", result.records)
    if args.output_json is not None:
        report = {
            "engine": describe_engine(engine),
            "scenario": vars(scenario),
            "runs": [scenario_report(result) for result in results],
        }
        write_json(args.output_json, header | report)
    return 0


def _run_profile(
    args: argparse.Namespace, engine: Engine, options: RuntimeOptions, header: dict[str, Any]
) -> int:
    plan = profile.plan_profile(
        engine, options, prefill_len=args.profile_prefill_len, seed=args.seed
    )
    result = profile.run_profile(engine, options, plan)
    print(table.profile(result))
    if args.output_json is not None:
        report = {"engine": describe_engine(engine), **profile.profile_report(result)}
        write_json(args.output_json, header | report)
    return 0


def _make_requests(
    args: argparse.Namespace, engine: Engine, rng: np.random.Generator
) -> tuple[list[BenchRequest], dict[str, Any]]:
    """The measured requests and a description of where they come from."""
    if args.dataset is None:
        requests = _random_requests(args, args.num_prompts, engine, rng)
        description = {
            "name": "random",
            "input_len": [args.input_len.low, args.input_len.high],
            "output_len": [args.output_len.low, args.output_len.high],
            "shared_prefix_len": args.shared_prefix_len,
            "seed": args.seed,
        }
        return requests, description
    engine_path = Path(engine.path)
    tokenizer = Tokenizer(engine_path.parent if engine_path.is_file() else engine_path)
    requests = read_dataset(args.dataset, tokenizer.encode, args.output_len.high)
    if len(requests) < args.num_prompts:
        raise BenchError(
            f"dataset {args.dataset}: has {len(requests)} requests, --num_prompts is "
            f"{args.num_prompts}"
        )
    return requests[: args.num_prompts], {"name": args.dataset.name, "seed": args.seed}


def _random_requests(
    args: argparse.Namespace, count: int, engine: Engine, rng: np.random.Generator
) -> list[BenchRequest]:
    return random_requests(
        count,
        args.input_len,
        args.output_len,
        engine.info.vocab_size,
        rng,
        shared_prefix_len=args.shared_prefix_len,
    )


def _vllm_header(args: argparse.Namespace, engine: Engine, num_prompts: int) -> dict[str, Any]:
    return {
        "backend": "enginery",
        "model_id": str(Path(engine.path).absolute()),
        "tokenizer_id": None,
        "num_prompts": num_prompts,
        "request_rate": finite_or_none(args.request_rate),
        "burstiness": args.burstiness,
        "max_concurrency": args.concurrency,
    }


def _print_header(engine: Engine, header: dict[str, Any]) -> None:
    info, machine = engine.info, header["machine"]
    load = ", ".join(f"{value:.2f}" for value in machine["load_average"])
    print(
        f"engine  {engine.path}: {info.architecture}, {info.dtype}, qformat {info.qformat}, "
        f"{info.weight_bytes / 2**20:.1f} MiB of weights\n"
        f"machine {machine['name']}, {machine['num_cores']} cores, load average {load}"
    )


def _command_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON, so that a report says how to repeat it."""
    shown = {}
    for name, value in vars(args).items():
        if isinstance(value, Span):
            value = f"{value.low}-{value.high}"
        elif isinstance(value, float):
            value = finite_or_none(value)
        elif isinstance(value, Path):
            value = str(value)
        shown[name] = value
    return shown


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if math.isnan(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be above 0")
    return value


def _span(text: str) -> Span:
    try:
        return Span.parse(text)
    except BenchError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _objective(text: str) -> tuple[str, float]:
    name, _, limit = text.partition(":")
    try:
        value = float(limit)
    except ValueError:
        value = math.nan
    if name not in OBJECTIVES or not value > 0:
        raise argparse.ArgumentTypeError(
            f"{text}: must be one of {', '.join(OBJECTIVES)}, a colon and milliseconds"
        )
    return name, value
