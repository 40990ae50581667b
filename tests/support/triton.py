# SPDX-License-Identifier: Apache-2.0
"""Clients of the real Triton server, and an engine on which requests can last."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.metrics import KV_CACHE_BLOCKS, REQUESTS, TIMESTAMP, read_gauge
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import ServerOptions, TritonServer
from enginery.triton_backend.tensors import INPUTS, OUTPUTS

from .checkpoints import write_tiny_checkpoint
from .schemes import build_engine

MODEL = "enginery"
DEADLINE_S = 60
FREE_PORTS = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)

# So many tokens take longer than any test waits for a request to end by itself.
MAX_SEQ_LEN = 1 << 20
LASTING: dict[str, Any] = {
    "input_ids": [7, 8, 9],
    "max_tokens": MAX_SEQ_LEN - 8,
    "ignore_eos": True,
}

Response = dict[str, Any]
_SPECS = {spec.name: spec for spec in INPUTS}
_LISTS = {spec.name for spec in OUTPUTS if spec.dims == (-1,)}
_DTYPES: dict[str, tuple[str, Any]] = {
    "STRING": ("BYTES", np.object_),
    "INT32": ("INT32", np.int32),
    "INT64": ("INT64", np.int64),
    "UINT64": ("UINT64", np.uint64),
    "FP32": ("FP32", np.float32),
    "BOOL": ("BOOL", np.bool_),
}


def build_lasting_engine(folder: Path) -> Path:
    """A tiny float32 llama without an upper bound on a request's length that a test would meet."""
    checkpoint = write_tiny_checkpoint(
        folder / "checkpoint", "llama", max_position_embeddings=MAX_SEQ_LEN
    )
    return build_engine(
        checkpoint, folder / "engine", max_batch_size=16, max_num_tokens=256, tokens_per_block=16
    )


@contextlib.contextmanager
def serving(engine: Path, folder: Path, **options: Any) -> Iterator[TritonServer]:
    """A server on free ports; `options` are of RuntimeOptions."""
    runtime = RuntimeOptions(**{"kv_cache_bytes": 1 << 30, **options})
    repository = write_repository(folder, ModelOptions(str(engine), runtime=runtime), MODEL)
    with TritonServer(repository, FREE_PORTS) as server:
        yield server


class OpenStream:
    """A stream of a client of its own, with the responses to all its requests in one queue."""

    def __init__(self, server: TritonServer) -> None:
        self._client = grpc.InferenceServerClient(server.grpc_url)
        self._responses: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: self._responses.put((result, error)))

    def close(self, *, cancels: bool = True) -> None:
        """Closes the stream; what runs on it is cancelled, or else waited for."""
        requests = self._client._stream._request_queue
        self._client.stop_stream(cancel_requests=cancels)
        # tritonclient tells its thread that sends requests only when nothing is cancelled: each
        # cancelled stream would keep one until the process ends.
        requests.put(None)
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class GrpcStream(OpenStream):
    """A stream to the model of the layouts enginery and native."""

    def submit(
        self, inputs: Mapping[str, Any], request_id: str = "", timeout_us: int | None = None
    ) -> None:
        self._client.async_stream_infer(
            MODEL, tensors(inputs), request_id=request_id, timeout=timeout_us
        )

    def next(self) -> Response:
        """The next response; {"error": ...} for one that is an error."""
        result, error = self._responses.get(timeout=DEADLINE_S)
        if error is not None:
            return {"error": error.message()}
        raw = result.get_response()
        response: Response = {"id": raw.id}
        for output in raw.outputs:
            values = result.as_numpy(output.name).tolist()
            text = [v.decode() if isinstance(v, bytes) else v for v in values]
            response[output.name] = text if output.name in _LISTS else text[0]
        return response

    def until_last(self, num_sequences: int = 1) -> list[Response]:
        """The responses until the request's last; only one request may be in flight."""
        found: list[Response] = []
        while num_sequences:
            found.append(self.next())
            if "error" in found[-1]:
                return found
            num_sequences -= found[-1]["finish_reason"] != ""
        return found


def tensors(inputs: Mapping[str, Any]) -> list[Any]:
    """Inputs in the types that the model declares; a value that is not a list has shape [1]."""
    result = []
    for name, value in inputs.items():
        data_type, dtype = _DTYPES[_SPECS[name].data_type]
        values = [v.encode() if isinstance(v, str) else v for v in _as_list(value)]
        array: npt.NDArray[Any] = np.array(values, dtype)
        result.append(grpc.InferInput(name, array.shape, data_type))
        result[-1].set_data_from_numpy(array)
    return result


def grpc_stream(server: TritonServer, inputs: Mapping[str, Any]) -> list[Response]:
    """The responses to a request on a stream of its own."""
    stream = GrpcStream(server)
    is_whole = False
    try:
        stream.submit(inputs)
        responses = stream.until_last(int(inputs.get("num_return_sequences", 1)))
        is_whole = "error" not in responses[-1]
        return responses
    finally:
        stream.close(cancels=not is_whole)


def assert_timeouts_end_a_request(server: TritonServer) -> None:
    """The model's own limit does, Triton server's `timeout`, and of both the shorter one."""

    def ask(own: dict[str, int], timeout_us: int | None) -> Response:
        with GrpcStream(server) as stream:
            stream.submit({**LASTING, **own}, timeout_us=timeout_us)
            (response,) = stream.until_last()
        return response

    hour_ms = 3_600_000
    for own, timeout_us in (
        ({"timeout_ms": 200}, None),
        ({}, 200_000),
        ({"timeout_ms": 200}, hour_ms * 1000),
        ({"timeout_ms": hour_ms}, 200_000),
    ):
        response = ask(own, timeout_us)
        assert response["finish_reason"] == "timeout"
        assert 0 < len(response["output_ids"]) < LASTING["max_tokens"]


def http_generate(server: TritonServer, body: Mapping[str, Any]) -> tuple[int, Response]:
    """Status and answer of the `generate` endpoint."""
    with contextlib.closing(_post(server, "generate", body)) as connection:
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def http_stream(server: TritonServer, body: Mapping[str, Any]) -> list[Response]:
    """The events of the `generate_stream` endpoint."""
    with contextlib.closing(_post(server, "generate_stream", body)) as connection:
        lines = connection.getresponse().read().splitlines()
    events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line]
    for event in events:  # Triton server writes an array of one element as that element
        for name in _LISTS & event.keys():
            event[name] = _as_list(event[name])
    return events


def http_socket(server: TritonServer, body: Mapping[str, Any]) -> socket.socket:
    """A bare connection on which `generate_stream` was asked for."""
    host, port = server.http_url.split(":")
    connection = socket.create_connection((host, int(port)), timeout=DEADLINE_S)
    payload = json.dumps(body).encode()
    path = f"/v2/models/{MODEL}/generate_stream"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


def reset(connection: socket.socket) -> None:
    """Closes a connection with RST, as a host that crashed and came back does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def metrics(server: TritonServer) -> str:
    """The text of `/metrics`, not older than this call."""
    called_at = time.time()
    while True:
        with contextlib.closing(http.client.HTTPConnection(server.metrics_url, timeout=5)) as page:
            page.request("GET", "/metrics")
            text = page.getresponse().read().decode()
        if metric(text, TIMESTAMP) > called_at:
            return text
        assert time.time() < called_at + DEADLINE_S, "metrics are not updated"
        time.sleep(0.02)


def metric(text: str, name: str) -> float:
    """The value of a metric without labels of its own."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    return float(line.split()[-1])


def num_active(server: TritonServer) -> float:
    """Requests in the runtime."""
    value = read_gauge(metrics(server), REQUESTS, "active")
    assert value is not None
    return value


CHECK = {"input_ids": [11, 12, 13], "max_tokens": 20, "ignore_eos": True, "seed": 4}


@contextlib.contextmanager
def nothing_left(server: TritonServer) -> Iterator[None]:
    """The same answer to `CHECK` and the same number of free blocks before and after."""
    wait_until(lambda: num_active(server) == 0, "nothing in flight before")
    (before,) = grpc_stream(server, CHECK)
    wait_until(lambda: num_active(server) == 0, "nothing in flight before")
    free = num_free_blocks(server)
    yield
    wait_until(lambda: num_active(server) == 0, "nothing in flight after")
    wait_until(lambda: num_free_blocks(server) == free, "all blocks free again")
    (after,) = grpc_stream(server, CHECK)
    assert after["output_ids"] == before["output_ids"]


def num_free_blocks(server: TritonServer) -> float:
    """KV blocks that can be had at once."""
    value = read_gauge(metrics(server), KV_CACHE_BLOCKS, "free")
    assert value is not None
    return value


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition that will come to hold; a broken server fails the test instead."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def _post(
    server: TritonServer, endpoint: str, body: Mapping[str, Any]
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(server.http_url, timeout=DEADLINE_S)
    connection.request("POST", f"/v2/models/{MODEL}/{endpoint}", json.dumps(body))
    return connection


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
