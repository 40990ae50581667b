# SPDX-License-Identifier: Apache-2.0
"""Sends a load from one event loop and keeps what comes and when, unread.

On a machine that the server shares with its load, what the generator computes is missing there:
requests are encoded before a run and responses decoded after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np

from benchmarks.serving.loads import Load
from enginery.bench.metrics import RequestRecord
from enginery.bench.workload import BenchRequest, FloatArray


@dataclass
class Reply:
    """What a request brought; times of CLOCK_MONOTONIC, in seconds."""

    submit_time: float
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None


@dataclass
class Tokens:
    """What a reply says: how many tokens came when, and how it ended."""

    arrivals: list[tuple[float, int]] = field(default_factory=list)
    finish_reason: str = ""
    error: str | None = None


class Client(Protocol):
    """Speaks a protocol with a server; an asynchronous context manager of one event loop."""

    def encode(self, request: BenchRequest, seed: int) -> bytes:
        """A request as it is sent."""

    async def send(self, payload: bytes) -> Reply:
        """Sends it and collects the stream to its end; raises nothing for what the server does."""

    def decode(self, chunks: Sequence[tuple[float, bytes]]) -> Tokens:
        """Reads a stream."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


async def offer(
    client: Client, payloads: Sequence[bytes], arrivals: FloatArray, num_users: int | None
) -> list[Reply]:
    """Sends payloads at their times, or as users have one answered; replies in order."""
    slots = None if num_users is None else asyncio.Semaphore(num_users)

    async def send(payload: bytes) -> Reply:
        try:
            return await client.send(payload)
        finally:
            if slots is not None:
                slots.release()

    begin = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for payload, arrival in zip(payloads, arrivals.tolist(), strict=True):
            if (delay := begin + arrival - time.monotonic()) > 0:
                await asyncio.sleep(delay)
            if slots is not None:
                await slots.acquire()
            tasks.append(group.create_task(send(payload)))
    return [task.result() for task in tasks]


async def run_load(
    client: Client, load: Load, seed: int, on_begin: Callable[[], None], on_end: Callable[[], None]
) -> list[RequestRecord]:
    """Warms up and runs a load.

    Args:
        client: speaks with the server.
        load: what to send.
        seed: of the sampled tokens.
        on_begin: called when all is warm and idle.
        on_end: called when the last reply has ended, before any is read.

    Returns:
        A record per request, in order.
    """
    warmup = [client.encode(request, seed) for request in load.warmup]
    payloads = [client.encode(request, seed) for request in load.requests]
    async with client:
        await offer(client, warmup, np.zeros(len(warmup)), None)
        on_begin()
        replies = await offer(client, payloads, load.arrivals, load.level.num_users)
        on_end()
    pairs = zip(load.requests, replies, strict=True)
    return [to_record(i, *pair, client) for i, pair in enumerate(pairs)]


def to_record(index: int, request: BenchRequest, reply: Reply, client: Client) -> RequestRecord:
    """A reply as the benchmark of the runtime keeps it, timed where the client had each token."""
    record = RequestRecord(index, len(request.prompt_token_ids), reply.submit_time)
    tokens = client.decode(reply.chunks)
    record.token_times = [time for time, count in tokens.arrivals for _ in range(count)]
    record.end_time = reply.chunks[-1][0] if reply.chunks else None
    record.finish_reason = tokens.finish_reason
    record.error = reply.error or tokens.error
    if record.error is None and record.num_output_tokens != request.output_tokens:
        record.error = f"{record.num_output_tokens} tokens of {request.output_tokens} came"
    return record
