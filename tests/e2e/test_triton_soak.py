# SPDX-License-Identifier: Apache-2.0
"""Minutes of everything at once: saturation, cancellations, vanished clients and bad requests.

`--soak_s` says how long, and `--soak_record` where the counts and the memory curve are written:

    pytest tests/e2e/test_triton_soak.py -m slow -k native --soak_s 1800 --soak_record soak.json
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.native_backend import NativeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from tests.support.hostile_clients import RawGrpc, half_open, http_post, resident_bytes
from tests.support.triton import (
    FREE_PORTS,
    LASTING,
    MODEL,
    GrpcStream,
    build_lasting_engine,
    grpc_stream,
    http_generate,
    http_socket,
    num_active,
    num_free_blocks,
    reset,
    wait_until,
)

# More than run and wait together, so that some are refused.
NUM_CLIENTS = 12
MAX_BATCH_SIZE = 4
MAX_QUEUE_SIZE = 4
SAMPLE_S = 5
# Between two cancelled gRPC streams of a client: tritonserver 2.51 locks itself up in one of some
# 30,000 (docs/triton.md). Clients who leave an HTTP stream cancel as often as they like.
CANCEL_PERIOD_S = 5
# Pools and caches fill in the first part; what grows after it, grows.
WARM_UP = 0.4
MAX_GROWTH = 1.1
# What clients leave. tritonserver misses some who reset an HTTP stream at once (docs/triton.md).
LEFT = {**LASTING, "stream": True, "timeout_ms": 10_000}
CHECK = {"input_ids": [11, 12, 13], "max_tokens": 20, "ignore_eos": True, "seed": 4}
BAD: list[dict[str, Any]] = [
    {"input_ids": [1], "top_k": -1},
    {"input_ids": [320]},
    {"input_ids": [1], "sampling_parameters": "["},
    {"input_ids": [1], "max_tokens": 2**31 - 1},
    {"input_ids": [1], "num_return_sequences": 99},
]


class Client(threading.Thread):
    """Asks in one way after the other until told to stop; keeps what went wrong."""

    def __init__(self, server: TritonServer, seed: int, stops: threading.Event) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self.problem = ""
        self._server = server
        self._draw = random.Random(seed)
        self._stops = stops
        self._next_cancel = time.monotonic() + self._draw.random() * CANCEL_PERIOD_S

    def run(self) -> None:
        ways = (self._ask, self._ask, self._stream, self._vanish, self._err)
        try:
            while not self._stops.is_set():
                way = self._draw.choice(ways)
                if time.monotonic() >= self._next_cancel:
                    way = self._cancel
                    self._next_cancel += CANCEL_PERIOD_S
                way()
                self.counts[way.__name__.removeprefix("_")] += 1
        except BaseException:  # reported by the test
            self.problem = f"{time.strftime('%T')} {traceback.format_exc()}"

    def _request(self) -> tuple[dict[str, Any], int]:
        max_tokens = self._draw.choice((1, 7, 40, 150, 600))
        ids = [self._draw.randrange(320) for _ in range(self._draw.choice((1, 5, 60, 500)))]
        request = {"input_ids": ids, "max_tokens": max_tokens, "ignore_eos": True}
        return request, max_tokens

    def _ask(self) -> None:
        request, max_tokens = self._request()
        status, answer = http_generate(self._server, request)
        if status == 200:
            assert answer["finish_reason"] == "length"
            ids = answer["output_ids"]
            assert len(ids if isinstance(ids, list) else [ids]) == max_tokens
        self._count(answer.get("error"))

    def _stream(self) -> None:
        request, max_tokens = self._request()
        responses = grpc_stream(self._server, {**request, "stream": True})
        if "error" not in responses[-1]:
            assert sum(len(response["output_ids"]) for response in responses) == max_tokens
        self._count(responses[-1].get("error"))

    def _cancel(self) -> None:
        with GrpcStream(self._server) as stream:
            stream.submit(LEFT)
            time.sleep(self._draw.random() * 0.05)

    def _vanish(self) -> None:
        connection = http_socket(self._server, LEFT)
        time.sleep(self._draw.random() * 0.05)
        reset(connection)

    def _err(self) -> None:
        status, answer = http_generate(self._server, self._draw.choice(BAD))
        assert status == 400
        assert answer["error"]
        http_post(self._server, self._draw.randbytes(200))
        with contextlib.closing(RawGrpc(self._server)) as client:
            client.infer(self._draw.randbytes(200))
        with contextlib.ExitStack() as stack:
            for connection in half_open(self._server):
                stack.enter_context(connection)

    def _count(self, error: str | None) -> None:
        assert error is None or "retry after 1 s" in error
        self.counts["answered" if error is None else "refused"] += 1


class Record:
    """Memory and counts over the time of a soak, and on the disk while it goes on."""

    def __init__(self, path: Path | None, backend: str) -> None:
        self.memory: list[int] = []
        self._path = path
        self._backend = backend
        self._samples: list[dict[str, int]] = []

    def add(self, memory: int, counts: collections.Counter[str]) -> None:
        self.memory.append(memory)
        seconds = SAMPLE_S * len(self.memory)
        self._samples.append({"seconds": seconds, "resident_bytes": memory, **counts})
        if self._path is not None:
            lines = ",\n".join(json.dumps(sample) for sample in self._samples)
            self._path.write_text(f'{{"backend": "{self._backend}", "samples": [\n{lines}\n]}}\n')


def total(clients: list[Client]) -> collections.Counter[str]:
    return sum((client.counts for client in clients), collections.Counter())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["python", "native"])
def test_soak(backend: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    engine = build_lasting_engine(tmp_path)
    runtime = RuntimeOptions(
        kv_cache_bytes=1 << 30,
        max_batch_size=MAX_BATCH_SIZE,
        max_queue_size=MAX_QUEUE_SIZE,
        policy="MAX_UTILIZATION",
    )
    options = ModelOptions(str(engine), runtime=runtime)
    chosen = NativeOptions(options) if backend == "native" else options
    repository = write_repository(tmp_path / "repository", chosen, MODEL)
    record = Record(pytestconfig.getoption("soak_record"), backend)
    with TritonServer(repository, FREE_PORTS) as server:
        (expected,) = grpc_stream(server, CHECK)
        with GrpcStream(server) as stream:  # what clients leave is a stream indeed
            stream.submit(LEFT)
            assert stream.next()["output_ids"]
        wait_until(lambda: num_active(server) == 0, "nothing in flight before")
        free = num_free_blocks(server)
        stops = threading.Event()
        clients = [Client(server, seed, stops) for seed in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        try:
            for _ in range(int(pytestconfig.getoption("soak_s") / SAMPLE_S)):
                time.sleep(SAMPLE_S)
                record.add(resident_bytes(server.pid), total(clients))
        finally:
            stops.set()
            for client in clients:
                client.join()
            print(server.log_tail())  # of a failure, or of a server that has ended
        curve = [each >> 20 for each in record.memory]
        print(f"{backend}: {dict(total(clients))}; MiB: {curve}")
        assert total(clients)["answered"] > 0
        wait_until(lambda: num_active(server) == 0, "nothing in flight after")
        wait_until(lambda: num_free_blocks(server) == free, "all blocks free again")
        assert grpc_stream(server, CHECK)[0]["output_ids"] == expected["output_ids"]
        problems = [client.problem for client in clients if client.problem]
        assert not problems, "\n".join(problems)
        warm = record.memory[int(len(record.memory) * WARM_UP) :]
        half = len(warm) // 2
        assert max(warm[half:]) < MAX_GROWTH * max(warm[:half]), curve
