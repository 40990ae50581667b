# SPDX-License-Identifier: Apache-2.0
"""What clients do wrong to the real tritonserver, with either backend: nothing is lost.

Around each test the same request gets the same answer, and the same KV blocks are free.
"""

from __future__ import annotations

import collections
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc  # type: ignore[import-untyped]
import pytest

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.native_backend import NativeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from tests.support.hostile_clients import (
    RawGrpc,
    half_open,
    http_post,
    ids_request,
    resident_bytes,
    silent_readers,
)
from tests.support.triton import (
    CHECK,
    FREE_PORTS,
    LASTING,
    MODEL,
    GrpcStream,
    build_lasting_engine,
    grpc_stream,
    http_generate,
    http_socket,
    nothing_left,
    num_active,
    reset,
    wait_until,
)

MAX_QUEUE_SIZE = {"python": 0, "native": 300}
STREAMING = {**LASTING, "stream": True}

# A process with so many clients, a tenth of them gRPC: streams of gRPC that are cancelled can hang
# Triton server, though seldom (docs/triton.md). It says so when one of each kind had tokens, and
# reads on until it is killed. Requests end, so that those of all processes get their turn.
CLIENTS = """
import sys
from types import SimpleNamespace
from tests.support.triton import GrpcStream, http_socket
server = SimpleNamespace(grpc_url=sys.argv[1], http_url=sys.argv[2])
request = {"input_ids": [7, 8, 9], "max_tokens": 500, "ignore_eos": True, "stream": True}
streams, sockets = [], []
for i in range(int(sys.argv[3])):
    if i % 10 == 0:
        streams.append(GrpcStream(server))
        streams[-1].submit(request)
    else:
        sockets.append(http_socket(server, request))
streams[0].next()
sockets[0].recv(1 << 16)
print("streaming", flush=True)
while True:
    for stream in streams: stream.next()
"""


@pytest.fixture(scope="module", params=["python", "native"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    engine = build_lasting_engine(tmp_path_factory.mktemp("engine"))
    runtime = RuntimeOptions(
        kv_cache_bytes=1 << 30,
        max_queue_size=MAX_QUEUE_SIZE[request.param],
        # Requests that together would not fit to their ends must all run.
        policy="MAX_UTILIZATION",
    )
    options = ModelOptions(str(engine), runtime=runtime)
    chosen = NativeOptions(options) if request.param == "native" else options
    repository = write_repository(tmp_path_factory.mktemp("repository"), chosen, MODEL)
    with TritonServer(repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing(server: TritonServer) -> Iterator[None]:
    with nothing_left(server):
        yield


def test_a_thousand_clients_vanish_in_their_streams(server: TritonServer) -> None:
    draw = random.Random(8)
    num_processes, clients_each = 4, 100
    for _ in range(1000 - num_processes * clients_each):
        connection = http_socket(server, STREAMING)
        if draw.random() < 0.3:
            connection.recv(1 << 16)
        reset(connection)
    command = [sys.executable, "-c", CLIENTS, server.grpc_url, server.http_url, str(clients_each)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(num_processes)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "streaming\n"
            time.sleep(draw.random() * 0.05)
            process.kill()
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_readers_that_stop_reading_hold_up_nobody(server: TritonServer) -> None:
    max_tokens, count = 6000, 2
    body = {"input_ids": [3], "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    before = resident_bytes(server.pid)
    with silent_readers(server, body, ids_request([3], max_tokens), count):
        for _ in range(10):
            (answer,) = grpc_stream(server, CHECK)
            assert len(answer["output_ids"]) == 20
            assert http_generate(server, CHECK)[1]["output_ids"] == answer["output_ids"]
        wait_until(lambda: num_active(server) == 0, "the runtime is done with them")
        # What is not read waits in Triton server: max_tokens bounds it.
        assert resident_bytes(server.pid) - before < 2 * count * max_tokens * 4096 + (64 << 20)


def test_half_open_connections_hold_up_nobody(server: TritonServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            for connection in half_open(server):
                stack.enter_context(connection)
        with GrpcStream(server) as stream:
            stream.submit(CHECK)
            assert stream.until_last()[0]["finish_reason"] == "length"
        assert http_generate(server, CHECK)[0] == 200


def test_client_that_closes_its_half_after_asking(server: TritonServer) -> None:
    with http_socket(server, STREAMING) as connection:
        assert connection.recv(1 << 16)
        connection.shutdown(socket.SHUT_WR)


MALFORMED_BODIES = {
    "nothing": b"",
    "half": b'{"input_ids": [1',
    "no object": b"[1]",
    "not UTF-8": b'{"input_ids": [1], "sampling_parameters": "\xff\xfe"}',
    "not UTF-8 at all": b"\xff\xfe\x00\x01",
    "twice": b'{"input_ids": [1], "input_ids": [2]}',
    "an object": b'{"input_ids": {"a": 1}}',
    "nested": b'{"input_ids": [1], "x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "nested in a text": json.dumps(
        {"input_ids": [1], "sampling_parameters": "[" * 100_000}
    ).encode(),
    "huge number": json.dumps(
        {"input_ids": [1], "sampling_parameters": '{"seed": 1' + "0" * 9000 + "}"}
    ).encode(),
    "huge prompt": json.dumps({"input_ids": [1] * 3_000_000}).encode(),
    "huge text": json.dumps({"input_ids": [1], "stop_words": ["x" * 2_000_000]}).encode(),
    "many texts": json.dumps({"input_ids": [1], "stop_words": ["x"] * 100_000}).encode(),
    "many words": json.dumps({"input_ids": [1], "bad_words": ["x y"] * 100_000}).encode(),
}  # fmt: skip


def test_malformed_bodies_are_answered(server: TritonServer) -> None:
    for name, body in MALFORMED_BODIES.items():
        status, answer = http_post(server, body)
        assert status >= 400, name
        assert json.loads(answer)["error"], name
    for path in ("/v2/models/enginery/infer", "/v2/nothing", "/v2/models/nothing/generate"):
        status, _ = http_post(server, b"\0" * 100, path)
        assert status >= 400


def test_malformed_messages_are_answered(server: TritonServer) -> None:
    draw = random.Random(9)
    sound = ids_request([1, 2, 3], 2, stream=False).SerializeToString()
    with contextlib.closing(RawGrpc(server)) as client:
        assert len(client.stream(sound)) == 1
        for _ in range(300):
            damaged = bytearray(sound)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            message = bytes(damaged[: draw.randint(0, len(damaged))])
            # A mutation may be sound, and so be answered; the deadline passing would be a hang.
            assert client.infer(message) is not grpc.StatusCode.DEADLINE_EXCEEDED
            with contextlib.suppress(grpc.RpcError):
                client.stream(message)
        assert len(client.stream(sound)) == 1


def test_long_texts_do_not_hold_up_short_ones(server: TritonServer) -> None:
    with GrpcStream(server) as slow:
        slow.submit({"text_input": "ab cd " * 400_000})
        if server.repository.is_native:  # it takes no text
            assert "text_input" in slow.next()["error"]
            return
        short = {"text_input": "hello", "max_tokens": 3, "ignore_eos": True}
        assert len(grpc_stream(server, short)[0]["output_ids"]) == 3
        assert "num_prompt_tokens" in slow.next()["error"]


def test_ten_thousand_requests_are_answered_or_refused(server: TritonServer) -> None:
    limit = MAX_QUEUE_SIZE["native" if server.repository.is_native else "python"]
    count, kinds = 10_000, 37
    answers: dict[int, set[tuple[int, ...]]] = collections.defaultdict(set)
    seen: set[str] = set()
    num_refused = 0
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(GrpcStream(server)) for _ in range(4)]
        for i in range(count):
            request = {"input_ids": [1 + i % kinds, 2], "max_tokens": 2, "seed": 7}
            streams[i % 4].submit({**request, "ignore_eos": True}, str(i))
        for i in range(count):
            response = streams[i % 4].next()
            if "error" in response:
                assert f"max_queue_size {limit}" in response["error"]
                assert "retry after" in response["error"]
                num_refused += 1
                continue
            assert response["finish_reason"] == "length"
            seen.add(response["id"])
            answers[int(response["id"]) % kinds].add(tuple(response["output_ids"]))
    assert len(seen) + num_refused == count
    assert limit > 0 or num_refused == 0
    assert len(answers) == kinds
    assert all(len(found) == 1 for found in answers.values())
