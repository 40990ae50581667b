# SPDX-License-Identifier: Apache-2.0
"""Runs sets of requests on a runtime and keeps what each of them gave, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from enginery.runtime.event import Event
from enginery.runtime.runtime import Runtime, Stats
from enginery.runtime.sampling_params import SamplingParams

DEADLINE_S = 120


@dataclass(frozen=True)
class Job:
    """A request, to be run under different circumstances."""

    prompt: tuple[int, ...]
    params: SamplingParams


@dataclass
class SequenceResult:
    """What one sequence of a job gave."""

    token_ids: list[int] = field(default_factory=list)
    logits: list[npt.NDArray[np.float32]] = field(default_factory=list)
    context_logits: npt.NDArray[np.float32] | None = None
    finish_reason: str | None = None

    def add(self, event: Event) -> None:
        self.token_ids += event.token_ids
        if event.generation_logits is not None:
            self.logits.append(event.generation_logits)
        if event.context_logits is not None:
            self.context_logits = event.context_logits
        self.finish_reason = event.finish_reason

    def bits(self) -> tuple[list[int], bytes, bytes]:
        """Token ids and logits, to be compared exactly."""
        context = b"" if self.context_logits is None else self.context_logits.tobytes()
        return self.token_ids, np.concatenate(self.logits).tobytes(), context


JobResult = list[SequenceResult]


class JobRunner:
    """Submits jobs and collects what they give; nobody else polls the runtime.

    Events of requests that were submitted by others are dropped.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._results: dict[int, JobResult] = {}
        self._open: set[int] = set()

    def submit(self, job: Job) -> None:
        request_id = self._runtime.submit(job.prompt, job.params)
        self._results[request_id] = [SequenceResult() for _ in range(job.params.n)]
        self._open.add(request_id)

    def poll(self) -> None:
        """Waits for events, unless no job is running."""
        if not self._open:
            return
        for event in self._runtime.poll(1000):
            if event.request_id in self._results:
                self._results[event.request_id][event.sequence_index].add(event)
                if event.is_last:
                    self._open.discard(event.request_id)

    def finish(self) -> list[JobResult]:
        """Waits until all jobs have ended; their results in the order of submission."""
        deadline = time.monotonic() + DEADLINE_S
        while self._open:
            assert time.monotonic() < deadline, f"{len(self._open)} jobs do not end"
            self.poll()
        return list(self._results.values())


def run_jobs(runtime: Runtime, jobs: Sequence[Job]) -> list[JobResult]:
    """Submits all jobs at once and waits for them; results in order."""
    runner = JobRunner(runtime)
    for job in jobs:
        runner.submit(job)
    return runner.finish()


class HasStats(Protocol):
    """A Runtime or an LLM."""

    def stats(self) -> Stats: ...


def settled(runtime: HasStats) -> Stats:
    """The counters once all requests have left: a last event can be polled a moment before."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        stats = runtime.stats()
        if stats.num_running == stats.num_waiting == 0:
            return stats
        assert time.monotonic() < deadline, stats
        time.sleep(0.001)


def assert_same(found: Sequence[JobResult], expected: Sequence[JobResult]) -> None:
    """Asserts equal tokens and equal bits of logits; names the first sequence that differs."""
    assert len(found) == len(expected)
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for sequence, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert one.finish_reason == other.finish_reason == "LENGTH"
            if one.bits() != other.bits():
                raise AssertionError(_difference(index, sequence, one, other))


def _difference(job: int, sequence: int, one: SequenceResult, other: SequenceResult) -> str:
    where = f"job {job}, sequence {sequence}"
    ours, theirs = np.concatenate(one.logits), np.concatenate(other.logits)
    if ours.shape == theirs.shape:
        rows = np.flatnonzero((ours != theirs).any(axis=1))
        if rows.size:
            gap = np.abs(ours[rows[0]] - theirs[rows[0]]).max()
            return f"{where}: logits of {rows.size} tokens differ, first of token {rows[0]}: {gap}"
    if one.token_ids != other.token_ids:
        return f"{where}: tokens {one.token_ids} and {other.token_ids}"
    return f"{where}: context logits differ"
