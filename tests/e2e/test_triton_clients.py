# SPDX-License-Identifier: Apache-2.0
"""Clients that cancel, crash or come in thousands: the server frees their blocks and goes on."""

from __future__ import annotations

import collections
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from enginery.triton_backend.server import TritonServer
from tests.support.triton import (
    LASTING,
    GrpcStream,
    build_lasting_engine,
    grpc_stream,
    http_socket,
    nothing_left,
    num_active,
    reset,
    serving,
    wait_until,
)

MAX_BATCH_SIZE = 16
MAX_QUEUE_SIZE = 500
STREAMING = {**LASTING, "stream": True}

# A client process with three requests in flight; it says so as they stream and ends when killed.
CLIENT = """
import sys
from types import SimpleNamespace
from tests.support.triton import GrpcStream, http_socket, LASTING
server = SimpleNamespace(grpc_url=sys.argv[1], http_url=sys.argv[2])
stream = GrpcStream(server)
stream.submit({**LASTING, "stream": True})
stream.submit(LASTING)
connection = http_socket(server, {**LASTING, "stream": True})
while True:
    stream.next()
    connection.recv(1 << 20)
    print("streaming", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    engine = build_lasting_engine(tmp_path_factory.mktemp("engine"))
    with serving(
        engine,
        tmp_path_factory.mktemp("repository"),
        max_batch_size=MAX_BATCH_SIZE,
        max_queue_size=MAX_QUEUE_SIZE,
        # Requests that together would not fit to their ends must all run.
        policy="MAX_UTILIZATION",
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing(server: TritonServer) -> Iterator[None]:
    with nothing_left(server):
        yield


def test_cancelled_stream(server: TritonServer) -> None:
    with GrpcStream(server) as stream:
        stream.submit(STREAMING)
        assert stream.next()["output_ids"]


def test_cancelled_while_it_waits_for_its_only_response(server: TritonServer) -> None:
    with GrpcStream(server) as stream:
        stream.submit(LASTING)
        wait_until(lambda: num_active(server) == 1, "the request runs")


def test_http_connection_closed(server: TritonServer) -> None:
    connection = http_socket(server, STREAMING)
    assert connection.recv(1000)
    connection.close()


def test_http_connection_reset(server: TritonServer) -> None:
    connection = http_socket(server, STREAMING)
    assert connection.recv(1000)
    reset(connection)


def test_other_requests_of_the_server_go_on(server: TritonServer) -> None:
    request = {"input_ids": [9], "max_tokens": 2000, "ignore_eos": True, "seed": 1}
    (alone,) = grpc_stream(server, request)
    with GrpcStream(server) as staying:
        with GrpcStream(server) as leaving:
            leaving.submit(STREAMING)
            leaving.next()
            staying.submit(request)
        assert staying.until_last()[0]["output_ids"] == alone["output_ids"]


def test_sockets_reset_at_random_moments(server: TritonServer) -> None:
    draw = random.Random(5)
    # Triton server notices that an HTTP client left when it writes to it, which without streaming
    # it does once, at the end.
    whole = {"input_ids": [5], "max_tokens": 300, "ignore_eos": True}
    for _ in range(60):
        connection = http_socket(server, STREAMING if draw.random() < 0.7 else whole)
        time.sleep(draw.choice((0, 0, 0.001, 0.005, 0.02)))
        reset(connection)


def test_client_processes_killed_at_random_moments(server: TritonServer) -> None:
    draw = random.Random(6)
    command = [sys.executable, "-c", CLIENT, server.grpc_url, server.http_url]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "streaming\n"
        assert num_active(server) > 0
        for client in draw.sample(clients, len(clients)):
            time.sleep(draw.random() * 0.05)
            client.kill()
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def test_ten_thousand_requests_at_once(server: TritonServer) -> None:
    """All are answered, or refused because too many wait; equal requests get equal answers."""
    count, kinds = 10_000, 37
    streams = [GrpcStream(server) for _ in range(4)]
    for i in range(count):
        request = {"input_ids": [1 + i % kinds, 2], "max_tokens": 4, "seed": 7, "ignore_eos": True}
        streams[i % 4].submit(request, str(i))
    answers: dict[int, set[tuple[int, ...]]] = collections.defaultdict(set)
    seen: set[str] = set()
    refused = 0
    for i in range(count):
        response = streams[i % 4].next()
        if "error" in response:
            assert f"max_queue_size {MAX_QUEUE_SIZE}" in response["error"]
            assert "retry after 1 s" in response["error"]
            refused += 1
        else:
            assert response["finish_reason"] == "length"
            seen.add(response["id"])
            answers[int(response["id"]) % kinds].add(tuple(response["output_ids"]))
    assert len(seen) + refused == count
    assert len(answers) == kinds
    assert all(len(found) == 1 for found in answers.values())
    for stream in streams:
        stream.close()


def test_full_queue_refuses_and_empties(server: TritonServer) -> None:
    extra = 25
    with GrpcStream(server) as stream:
        for i in range(MAX_BATCH_SIZE + MAX_QUEUE_SIZE + extra):
            stream.submit(LASTING, str(i))
        refusals = [stream.next() for _ in range(extra)]
        assert all("max_queue_size" in response["error"] for response in refusals)
