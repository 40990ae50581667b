# SPDX-License-Identifier: Apache-2.0
"""Clients of Triton server that read nothing, send halves, or send what no client library sends."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from enginery.triton_backend.server import TritonServer

from .triton import DEADLINE_S, MODEL, http_socket

SERVICE = "/inference.GRPCInferenceService"
GENERATE = f"/v2/models/{MODEL}/generate"


class SilentGrpcStream:
    """A stream on a connection of its own whose responses nobody reads."""

    def __init__(self, server: TritonServer, request: service_pb2.ModelInferRequest) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(server.grpc_url, options)
        call = self._channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        )
        self._responses = call(iter([request]))

    def read_one(self) -> None:
        """Waits for the first response; what follows fills the window of the connection."""
        next(self._responses)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def silent_readers(
    server: TritonServer, body: dict[str, Any], request: service_pb2.ModelInferRequest, count: int
) -> Iterator[None]:
    """`count` HTTP clients and as many gRPC clients that stream, and stop reading at once."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(http_socket(server, body))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream = stack.enter_context(SilentGrpcStream(server, request))
            assert connection.recv(1)
            stream.read_one()
        yield


def raw_request(inputs: Sequence[tuple[str, str, Sequence[int], bytes]], model: str = MODEL) -> Any:
    """A request of (name, data type, shape, raw bytes), of which nothing need be true."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, data_type, shape, data in inputs:
        request.inputs.add(name=name, datatype=data_type, shape=shape)
        request.raw_input_contents.append(data)
    return request


def ids_request(token_ids: Sequence[int], max_tokens: int, *, stream: bool = True) -> Any:
    """A sound request, which an end token does not end."""
    return raw_request(
        [
            (
                "input_ids",
                "INT32",
                [len(token_ids)],
                struct.pack(f"<{len(token_ids)}i", *token_ids),
            ),
            ("max_tokens", "INT32", [1], struct.pack("<i", max_tokens)),
            ("ignore_eos", "BOOL", [1], b"\1"),
            ("stream", "BOOL", [1], bytes([stream])),
        ]
    )


class RawGrpc:
    """One connection on which bytes are sent as they are."""

    def __init__(self, server: TritonServer) -> None:
        self._channel = grpc.insecure_channel(server.grpc_url)
        self._infer = self._channel.unary_unary(f"{SERVICE}/ModelInfer")
        self._stream = self._channel.stream_stream(f"{SERVICE}/ModelStreamInfer")

    def infer(self, message: bytes) -> grpc.StatusCode:
        """The status of the call that gives one response."""
        try:
            self._infer(message, timeout=DEADLINE_S)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def stream(self, message: bytes) -> list[service_pb2.ModelStreamInferResponse]:
        """The responses on a stream of its own.

        Raises:
            grpc.RpcError: the call itself failed.
        """
        raw = self._stream(iter([message]), timeout=DEADLINE_S)
        return [service_pb2.ModelStreamInferResponse.FromString(each) for each in raw]

    def close(self) -> None:
        self._channel.close()


def http_post(server: TritonServer, body: bytes, path: str = GENERATE) -> tuple[int, bytes]:
    """Status and body of an answer to bytes."""
    connection = http.client.HTTPConnection(server.http_url, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()


def half_open(server: TritonServer) -> list[socket.socket]:
    """Connections on which something was begun: each kind of half that HTTP and gRPC have."""
    head = f"POST {GENERATE} HTTP/1.1\r\nHost: x\r\n"
    to_http = [b"", b"POST", head.encode(), f"{head}Content-Length: 1000\r\n\r\n{{".encode()]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    to_grpc = [b"", preface[:7], preface, preface + b"\0\0\x10\4"]
    opened = []
    for url, beginnings in ((server.http_url, to_http), (server.grpc_url, to_grpc)):
        host, port = url.split(":")
        for beginning in beginnings:
            opened.append(socket.create_connection((host, int(port)), timeout=DEADLINE_S))
            opened[-1].sendall(beginning)
    return opened


def resident_bytes(pid: int) -> int:
    """Memory of a process and of those that it started, as /proc says."""
    return _bytes_of_tree(pid, "VmRSS:")


def peak_bytes(pid: int) -> int:
    """The most that each of them ever had, in sum."""
    return _bytes_of_tree(pid, "VmHWM:")


def _bytes_of_tree(pid: int, name: str) -> int:
    total = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            total = int(line.split()[1]) * 1024
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        total += sum(_bytes_of_tree(int(child), name) for child in path.read_text().split())
    return total
