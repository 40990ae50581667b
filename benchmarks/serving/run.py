# SPDX-License-Identifier: Apache-2.0
"""Gives every side the same loads, one after the other, and keeps each run as a line of JSON."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.run import cpu_seconds, disturbance, keep, read_samples, rotated
from benchmarks.peers.sides import ROOT
from benchmarks.serving.clients import OpenAIClient, TritonClient
from benchmarks.serving.figures import summarise
from benchmarks.serving.generator import Client, run_load
from benchmarks.serving.loads import Level, make_load
from benchmarks.serving.server import RUNTIME, Histograms, Server, grown_means
from enginery.bench.metrics import RequestRecord
from enginery.runtime.engine import Engine

BARE = "bare"
BACKENDS = {
    "native": "native",
    "python": "python",
    "openai": "python",
    "openai_native": "native",
}
"""The sides that have a server, and their backend of Triton server."""
SIDES = (BARE, *BACKENDS)
KEY_FIELDS = ("round", "side", "kind", "value", "num_threads", "quick")
GENERATOR = "load generator"
METRICS_PERIOD_S = 0.5
"""After so long `/metrics` has all of a run."""
BARE_TIMEOUT_S = 600
MAX_DISTURBANCE = 0.2
"""Processors that may have worked on something else during a run that counts."""


def run(args: argparse.Namespace) -> int:
    """Measures all rounds; 1 when a run failed, else 0.

    All servers that are needed run from the beginning to the end, those that are not asked idle.
    Runs that the file already holds are not made again, unless they were disturbed.
    """
    samples = read_samples(args.output)
    levels = [Level("alone", 1.0)] if args.alone else []
    levels += [Level("users", value) for value in args.users]
    levels += [Level("rate", value) for value in args.rates]
    num_failed = 0
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        for round_index in range(args.first_round, args.first_round + args.rounds):
            for level in levels:
                for side in rotated(list(args.sides), round_index):
                    key = _key(args, round_index, level, side)
                    if is_measured(samples, key):
                        continue
                    backend = BACKENDS.get(side)
                    if backend is not None and backend not in servers:
                        options = ["--openai", f"--backend={backend}", f"--threads={args.threads}"]
                        servers[backend] = stack.enter_context(Server(args.engine, options))
                    sample = measure_side(args, key, servers.get(backend or ""))
                    num_failed += "error" in sample
                    keep(args.output, samples, key | sample)
    return 1 if num_failed else 0


def _key(args: argparse.Namespace, round_index: int, level: Level, side: str) -> dict[str, Any]:
    values = (round_index, side, level.kind, level.value, args.threads, args.quick)
    return dict(zip(KEY_FIELDS, values, strict=True))


def is_measured(samples: Iterable[dict[str, Any]], key: dict[str, Any]) -> bool:
    """Whether a sample that counts has this key."""
    return any(counts(sample) and key.items() <= sample.items() for sample in samples)


def counts(sample: dict[str, Any]) -> bool:
    """Whether a run came to its end with the machine for itself."""
    return "error" not in sample and sample.get("disturbance", 0.0) <= MAX_DISTURBANCE


@dataclass(frozen=True)
class Run:
    """What became of a load.

    Attributes:
        records: of all requests, in order.
        cpu_s: CPU seconds by kind of process, while the load ran.
        disturbance: how many processors worked on something else, on average.
        server_means_ms: the server's own latencies; empty where there is none.
    """

    records: list[RequestRecord]
    cpu_s: dict[str, float]
    disturbance: float
    server_means_ms: dict[str, float] = field(default_factory=dict)


def measure_side(
    args: argparse.Namespace, key: dict[str, Any], server: Server | None
) -> dict[str, Any]:
    """One run: its sample, or {"error": why there is none}."""
    sample: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    try:
        done = run_served(args.engine, key, server) if server else run_bare(args.engine, key)
        sample |= summarise(done.records, Level(key["kind"], key["value"]).num_ramp)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return sample | {"error": str(error)[-2000:].replace(str(ROOT), "")}
    last = max(record.token_times[-1] for record in done.records)
    wall_s = last - min(record.submit_time for record in done.records)
    # Tokens that came together were one response.
    num_responses = sum(len(set(record.token_times)) for record in done.records)
    return sample | {
        "processors": {name: round(seconds / wall_s, 4) for name, seconds in done.cpu_s.items()},
        "cpu_us_per_response": {
            name: round(1e6 * seconds / num_responses, 1) for name, seconds in done.cpu_s.items()
        },
        "disturbance": done.disturbance,
        "server_means_ms": done.server_means_ms,
    }


def run_bare(engine: Path, key: dict[str, Any]) -> Run:
    """The side without a server."""
    task = key | {"engine": str(engine.resolve())}
    before = cpu_seconds()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.bare"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=BARE_TIMEOUT_S,
    )
    after = cpu_seconds()
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-1500:]}")
    result = json.loads(done.stdout)
    records = [RequestRecord(**record) for record in result["records"]]
    return Run(records, {RUNTIME: result["cpu_s"]}, disturbance(before, after))


@dataclass(frozen=True)
class Watch:
    """What was counted up to a moment."""

    system: tuple[float, float]
    """The clock, and all processors' busy seconds."""
    cpu_s: dict[str, float]

    @classmethod
    def read(cls, server: Server) -> Watch:
        """Now."""
        return cls(cpu_seconds()[:2], server.cpu_seconds() | {GENERATOR: time.process_time()})


def run_served(engine: Path, key: dict[str, Any], server: Server) -> Run:
    """A side with a server."""
    with Engine(engine) as opened:
        vocab_size = opened.info.vocab_size
    load = make_load(Level(key["kind"], key["value"]), vocab_size, key["round"], quick=key["quick"])
    watches: list[Watch] = []
    histograms: list[Histograms] = []

    def on_begin() -> None:
        time.sleep(METRICS_PERIOD_S)
        histograms.append(server.histograms())
        watches.append(Watch.read(server))

    def on_end() -> None:
        watches.append(Watch.read(server))
        time.sleep(METRICS_PERIOD_S)
        histograms.append(server.histograms())

    client = make_client(key["side"], server)
    records = asyncio.run(run_load(client, load, key["round"], on_begin, on_end))
    begin, end = watches
    cpu_s = {name: seconds - begin.cpu_s[name] for name, seconds in end.cpu_s.items()}
    others = disturbance((*begin.system, 0.0), (*end.system, sum(cpu_s.values())))
    return Run(records, cpu_s, others, grown_means(*histograms))


def make_client(side: str, server: Server) -> Client:
    """What speaks with a side."""
    make: Callable[[str, str], Client]
    if side.startswith("openai"):
        make, url = OpenAIClient, server.ready["openai"]
    else:
        make, url = TritonClient, server.ready["grpc"]
    return make(url, server.ready["model"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what `run` takes."""
    parser.add_argument("engine", type=Path, metavar="ENGINE")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; is appended to")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="NAME")
    parser.add_argument("--alone", action="store_true", help="one short request at a time")
    parser.add_argument("--users", type=float, nargs="*", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--rates", type=float, nargs="*", default=[1, 2, 4, 6, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first_round", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="of the runtime (0: all CPUs)")
    parser.add_argument("--quick", action="store_true", help="to see that all answer, no figures")
