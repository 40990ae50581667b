# SPDX-License-Identifier: Apache-2.0
"""What every driver does: takes a task, measures its peer, prints one JSON line.

A driver runs in its peer's environment, in a process of its own. It needs the standard library
only, so that the measured process holds nothing but the peer.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

MEASUREMENTS = ("prefill", "decode", "load")
"""What can be left out; the first token and memory are always measured."""


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens follow it: end tokens are ignored."""

    prompt: list[int]
    num_tokens: int


@dataclass(frozen=True)
class Task:
    """One process's work; see `benchmarks.peers.workload`."""

    model: str
    precision: str
    num_threads: int
    measure: tuple[str, ...]
    max_seq_len: int
    max_in_flight: int
    first_token: Request
    prefill: list[Request]
    decode: list[Request]
    load: list[Request]
    extra: dict[str, Any]
    """What only this peer's driver reads."""

    @classmethod
    def parse(cls, text: str) -> Task:
        """Reads what `benchmarks.peers.workload` wrote."""
        fields = json.loads(text)
        for name in ("prefill", "decode", "load"):
            fields[name] = [Request(**request) for request in fields[name]]
        fields["first_token"] = Request(**fields["first_token"])
        fields["measure"] = tuple(fields["measure"])
        return cls(**fields)


@dataclass(frozen=True)
class Timed:
    """One request that ran alone: its tokens, and seconds from its start to each of them."""

    token_ids: list[int]
    token_times: list[float]

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.token_times[0]

    @property
    def tpot_s(self) -> float:
        """Time per token after the first."""
        return (self.token_times[-1] - self.token_times[0]) / (len(self.token_times) - 1)


class Peer(Protocol):
    """A model that was opened."""

    def describe(self) -> dict[str, Any]:
        """Version, what the precision means here, options that matter."""

    def generate(self, request: Request) -> Timed:
        """Runs one request alone, greedily, with no prefix cache."""

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        """Runs requests that all arrive at once; returns the number of tokens generated."""

    def close(self) -> None:
        """Frees the model."""


def run_driver(
    open_peer: Callable[[Task], Peer], probe: Callable[[Task], dict[str, Any]] = lambda task: {}
) -> None:
    """Reads a task from stdin, measures, prints the sample as the last line of stdout.

    Args:
        open_peer: makes the peer ready.
        probe: measures more, before; what it returns comes first.
    """
    task = Task.parse(sys.stdin.read())
    probed = probe(task)
    begin = time.perf_counter()
    peer = open_peer(task)
    opened = time.perf_counter()
    first = peer.generate(task.first_token)
    sample: dict[str, Any] = {
        "open_ms": 1e3 * (opened - begin),
        "first_token_ms": 1e3 * (time.perf_counter() - begin),
        "first_tokens": first.token_ids,
    }
    sample |= measure(peer, task)
    sample |= memory_of("/proc/self/status") | {"peer": peer.describe()} | probed
    peer.close()
    print("\n" + json.dumps(sample), flush=True)


def measure(peer: Peer, task: Task) -> dict[str, Any]:
    """Warm-up and timing of all but the first token."""
    sample: dict[str, Any] = {}
    if "prefill" in task.measure:
        first, *requests = task.prefill
        peer.generate(first)
        rates = [len(r.prompt) / peer.generate(r).ttft_s for r in requests]
        sample |= {"prefill_512_tok_s": statistics.median(rates), "prefill_512_all": rates}
    if "decode" in task.measure:
        first, *requests = task.decode
        peer.generate(first)
        timed = [peer.generate(request) for request in requests]
        rates = [1 / t.tpot_s for t in timed]
        sample |= {"decode_tok_s": statistics.median(rates), "decode_all": rates}
        sample["decode_tokens"] = timed[0].token_ids[:16]
    if "load" in task.measure:
        # As many as run together, and short: every batch size and shape is met before it counts.
        warmup = [Request(r.prompt[::-1], 8) for r in task.load[: task.max_in_flight]]
        peer.serve(warmup, task.max_in_flight)
        begin = time.perf_counter()
        num_tokens = peer.serve(task.load, task.max_in_flight)
        wall_s = time.perf_counter() - begin
        expected = sum(request.num_tokens for request in task.load)
        if num_tokens != expected:
            raise RuntimeError(f"load: {num_tokens} tokens came, {expected} were asked for")
        sample |= {"load_tok_s": num_tokens / wall_s, "load_wall_s": wall_s}
    return sample


def memory_of(status: str) -> dict[str, float]:
    """Peak resident memory of a process and the anonymous part of it now, in MB of 2**20 bytes."""
    fields = dict(line.split(":", 1) for line in Path(status).read_text().splitlines())
    names = {"peak_rss_mb": "VmHWM", "rss_anon_mb": "RssAnon"}
    return {name: int(fields[field].split()[0]) / 1024 for name, field in names.items()}
