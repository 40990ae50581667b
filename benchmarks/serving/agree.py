# SPDX-License-Identifier: Apache-2.0
"""Whether load generators that nobody here wrote find what our client and the server find.

Each gives the OpenAI front end the same load in turn: prompts and outputs of one length, a closed
loop or arrivals at equal intervals. The server has one processor and whoever sends another, so
that nobody's figures depend on how much a load generator computes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.run import keep, read_samples
from benchmarks.serving.clients import OpenAIClient
from benchmarks.serving.generator import run_load
from benchmarks.serving.loads import SEED, Level, Load
from benchmarks.serving.run import METRICS_PERIOD_S, is_measured
from benchmarks.serving.server import Server, grown_means
from enginery.bench.metrics import measure
from enginery.bench.workload import Span, random_requests
from enginery.runtime.engine import Engine

NUM_PROMPT_TOKENS, NUM_OUTPUT_TOKENS = 128, 64
FIGURES = {"ttft": "TTFT (ms)", "itl": "ITL (ms)", "e2e": "E2E (ms)", "output_tok_s": "tokens/s"}
"""Means, and the rate of output tokens."""
OURS = "ours"
TOLERANCE = 0.05
TOOL_TIMEOUT_S = 300


@dataclass(frozen=True)
class Target:
    """What is measured, and with what.

    Attributes:
        engine: its directory, which holds a tokenizer as well.
        tools: folder of the tools' environments.
        server: runs the engine.
    """

    engine: Path
    tools: Path
    server: Server


def agree(args: argparse.Namespace) -> int:
    """Runs all tools, keeps what they say, prints the comparison; 1 when a run failed, else 0."""
    samples = read_samples(args.output)
    server_cpu, *tool_cpus = sorted(os.sched_getaffinity(0))
    levels = [Level("users", value) for value in args.users]
    levels += [Level("rate", value) for value in args.rates]
    keys = [
        {"round": round_index, "tool": tool, "kind": level.kind, "value": level.value}
        for round_index in range(args.rounds)
        for level in levels
        for tool in TOOLS
    ]
    waiting = [key for key in keys if not is_measured(samples, key)]
    num_failed = 0
    if waiting:
        options = ["--openai", "--threads=1", f"--backend={args.backend}"]
        with Server(args.engine, options, [server_cpu]) as server:
            target = Target(args.engine.resolve(), args.tools, server)
            _ours(target, Level("users", 1.0), 1)  # whoever comes first finds all warm
            for key in waiting:
                with only_on(tool_cpus or [server_cpu]):
                    sample = measure_tool(target, key)
                num_failed += "error" in sample
                keep(args.output, samples, key | sample)
    print(comparison(samples))
    return 1 if num_failed else 0


@contextlib.contextmanager
def only_on(cpus: Sequence[int]) -> Iterator[None]:
    """Holds this process, and those that it starts meanwhile, on some processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure_tool(target: Target, key: dict[str, Any]) -> dict[str, Any]:
    """One tool on one load: what it says and what the server says of the same requests."""
    sample: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    level = Level(key["kind"], key["value"])
    time.sleep(METRICS_PERIOD_S)
    before = target.server.histograms()
    try:
        found = TOOLS[key["tool"]](target, level, num_requests(level))
    except (OSError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
        return sample | {"error": f"{type(error).__name__}: {str(error)[-1500:]}"}
    time.sleep(METRICS_PERIOD_S)
    return sample | {"found": found, "server": grown_means(before, target.server.histograms())}


def num_requests(level: Level) -> int:
    """Of a load, for 10 to 20 seconds on one processor."""
    return math.ceil(max(8, 10 * level.value) if level.kind == "rate" else 4 + 2 * level.value)


def _ours(target: Target, level: Level, count: int) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    with Engine(target.engine) as engine:
        vocab_size = engine.info.vocab_size
    output_len = Span(NUM_OUTPUT_TOKENS, NUM_OUTPUT_TOKENS)
    input_len = Span(NUM_PROMPT_TOKENS, NUM_PROMPT_TOKENS)
    requests = random_requests(count, input_len, output_len, vocab_size, rng)
    interval = 1 / level.value if level.kind == "rate" else 0.0
    load = Load(level, requests, np.arange(count) * interval, [])
    client = OpenAIClient(target.server.ready["openai"], target.server.ready["model"])
    records = asyncio.run(run_load(client, load, SEED, lambda: None, lambda: None))
    metrics = measure(records)
    if metrics.failed:
        raise RuntimeError(f"{metrics.failed} requests failed: {records[0].error}")
    return {
        "ttft": metrics.ttft.mean,
        "itl": metrics.itl.mean,
        "e2e": metrics.e2e.mean,
        "output_tok_s": metrics.output_throughput,
    }


def _aiperf(target: Target, level: Level, count: int) -> dict[str, float]:
    lengths = {"isl": NUM_PROMPT_TOKENS, "osl": NUM_OUTPUT_TOKENS}
    with tempfile.TemporaryDirectory() as folder:
        _run(
            [
                *(str(target.tools / "aiperf" / "bin" / "aiperf"), "profile"),
                *("--model", target.server.ready["model"], "--url", target.server.ready["openai"]),
                *("--endpoint-type", "completions", "--streaming", "--use-server-token-count"),
                *("--tokenizer", str(target.engine), "--extra-inputs", "ignore_eos:true"),
                *(f"--{name}={value}" for name, value in lengths.items()),
                *(f"--{name}-stddev=0" for name in lengths),
                *(
                    ("--request-rate", str(level.value), "--arrival-pattern", "constant")
                    if level.kind == "rate"
                    else ("--concurrency", str(level.num_users))
                ),
                *("--request-count", str(count), "--artifact-dir", folder),
                *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
            ]
        )
        said = json.loads((Path(folder) / "profile_export_aiperf.json").read_text())
    return {
        "ttft": said["time_to_first_token"]["avg"],
        "itl": said["inter_token_latency"]["avg"],
        "e2e": said["request_latency"]["avg"],
        "output_tok_s": said["output_token_throughput"]["avg"],
    }


def _guidellm(target: Target, level: Level, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        options = {
            "backend": {
                "kind": "openai_http",
                "target": target.server.ready["openai"],
                "model": target.server.ready["model"],
                "request_format": "/v1/completions",
            },
            "profile": (
                {"kind": "constant", "rate": [level.value]}
                if level.kind == "rate"
                else {"kind": "concurrent", "streams": [level.num_users]}
            ),
            "constraint": {"kind": "max_requests", "count": count},
            "tokenizer": {"kind": "hf_auto", "model": str(target.engine)},
            "data": {
                "kind": "synthetic_text",
                "prompt_tokens": NUM_PROMPT_TOKENS,
                "output_tokens": NUM_OUTPUT_TOKENS,
            },
            "output": {"kind": "json", "path": str(path)},
        }
        flags = [
            text for name, value in options.items() for text in (f"--{name}", json.dumps(value))
        ]
        binary = str(target.tools / "guidellm" / "bin" / "guidellm")
        _run([binary, "run", *flags, "--disable-console"])
        (said,) = json.loads(path.read_text())["benchmarks"]

    def mean(name: str) -> float:
        value: float = said["metrics"][name]["successful"]["mean"]
        return value

    return {
        "ttft": mean("time_to_first_token_ms"),
        "itl": mean("inter_token_latency_ms"),
        "e2e": 1e3 * mean("request_latency"),
        "output_tok_s": mean("output_tokens_per_second"),
    }


def _run(command: Sequence[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, env=env)
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {(done.stdout + done.stderr)[-1000:]}")


TOOLS: dict[str, Callable[[Target, Level, int], dict[str, float]]] = {
    OURS: _ours,
    "aiperf": _aiperf,
    "guidellm": _guidellm,
}


def comparison(samples: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: medians over rounds, how far from the server's own and from ours.

    The server's are of the same requests; ours were sent at another time, and a machine with
    neighbours is not the same twice.
    """
    good = [sample for sample in samples if "found" in sample]
    levels = dict.fromkeys(Level(sample["kind"], sample["value"]) for sample in good)
    head = ["load", "figure", *TOOLS, f"within {TOLERANCE:.0%} of the server", "at most off ours"]
    rows = [head, ["---"] * len(head)]
    for level in levels:
        chosen = [s for s in good if (s["kind"], s["value"]) == (level.kind, level.value)]
        for figure, title in FIGURES.items():
            found = {tool: _median(chosen, tool, "found", figure) for tool in TOOLS}
            served = {tool: _median(chosen, tool, "server", figure) for tool in TOOLS}
            own = [gap for tool in TOOLS if (gap := _gap(found[tool], served[tool])) is not None]
            gaps = [gap for tool in TOOLS if (gap := _gap(found[tool], found[OURS])) is not None]
            rows.append(
                [
                    str(level),
                    title,
                    *(_cell(found[tool], served[tool]) for tool in TOOLS),
                    ("yes" if max(map(abs, own)) <= TOLERANCE else "no") if own else "–",
                    f"{max(map(abs, gaps)):.1%}" if gaps else "–",
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _median(samples: Sequence[dict[str, Any]], tool: str, who: str, figure: str) -> float | None:
    values = [s[who][figure] for s in samples if s["tool"] == tool and figure in s[who]]
    return statistics.median(values) if values else None


def _gap(value: float | None, reference: float | None) -> float | None:
    return value / reference - 1 if value is not None and reference else None


def _cell(found: float | None, served: float | None) -> str:
    if found is None:
        return "–"
    gap = _gap(found, served)
    return f"{found:.1f}" if gap is None else f"{found:.1f} (server {served:.1f}, {gap:+.1%})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `agree` takes."""
    parser.add_argument("engine", type=Path, metavar="ENGINE")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; is appended to")
    parser.add_argument(
        "--tools", type=Path, default=Path("build/serving"), help="folder of the environments"
    )
    parser.add_argument("--backend", choices=("python", "native"), default="python")
    parser.add_argument("--users", type=float, nargs="*", default=[1, 8, 16])
    parser.add_argument("--rates", type=float, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
