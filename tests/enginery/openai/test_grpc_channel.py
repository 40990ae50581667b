# SPDX-License-Identifier: Apache-2.0
"""Calls to a real gRPC server, of another implementation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from enginery.openai.grpc_channel import Call, Channel, GrpcError
from tests.support.openai import run

SIZES = (0, 1, 19, 16_379, 16_384, 65_535, 1_000_003)
"""Of messages: awkward to frames of 16 KiB and windows of 64 KiB."""
REASON = "größer als erlaubt: 100 %"


@dataclass
class Listener:
    """Keeps what a call brings."""

    messages: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: GrpcError | None = None

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_end(self, error: GrpcError | None) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Methods on bytes."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def service(self, details: Any) -> Any:
        answer = {
            "/test/Repeat": self._repeat,
            "/test/Refuse": self._refuse,
            "/test/Wait": self._wait,
        }.get(details.method)
        return None if answer is None else grpc.unary_stream_rpc_method_handler(answer)

    def _repeat(self, message: bytes, _: Any) -> Iterator[bytes]:
        yield message
        yield from (bytes(size) for size in SIZES)
        yield message

    def _refuse(self, message: bytes, context: Any) -> Iterator[bytes]:
        yield message
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, REASON)

    def _wait(self, message: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        yield message
        self.cancelled.wait(60)


@contextmanager
def serving(address: str = "127.0.0.1:0") -> Iterator[tuple[str, Service, Any]]:
    service = Service()
    with ThreadPoolExecutor(8) as threads:
        options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
        server = grpc.server(threads, handlers=[service], options=options)
        port = server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{port}", service, server
        finally:
            service.cancelled.set()
            server.stop(None).wait()


async def call(channel: Channel, method: str, message: bytes) -> tuple[Listener, Call]:
    listener = Listener()
    return listener, await channel.start(f"/test/{method}", message, listener)


def test_messages_of_all_sizes_go_there_and_back() -> None:
    async def talk(address: str) -> None:
        channel = Channel(address)
        # All at once, on one connection, whose window the longest fill many times.
        calls = [await call(channel, "Repeat", bytes([7]) * size) for size in SIZES]
        for size, (listener, _) in zip(SIZES, calls, strict=True):
            await listener.ended.wait()
            assert listener.error is None
            assert listener.messages[0] == listener.messages[-1] == bytes([7]) * size
            assert [len(m) for m in listener.messages[1:-1]] == list(SIZES)
        channel.close()

    with serving() as (address, _, _):
        run(talk(address))


def test_status_says_why() -> None:
    async def talk(address: str) -> None:
        channel = Channel(address)
        listener, _ = await call(channel, "Refuse", b"x")
        await listener.ended.wait()
        assert listener.messages == [b"x"]
        assert str(listener.error) == REASON
        with pytest.raises(GrpcError, match="Method not found"):
            await channel.ask("/test/Nothing", b"")
        assert (await channel.ask("/test/Repeat", b"y"))[0] == b"y"  # the connection goes on
        channel.close()

    with serving() as (address, _, _):
        run(talk(address))


def test_cancelled_call_ends_at_the_server_and_hears_nothing() -> None:
    async def talk(address: str, service: Service) -> None:
        channel = Channel(address)
        listener, cancelled = await call(channel, "Wait", b"x")
        while not listener.messages:
            await asyncio.sleep(0.001)
        cancelled.cancel()
        cancelled.cancel()
        assert await asyncio.to_thread(service.cancelled.wait, 60)
        assert (await channel.ask("/test/Repeat", b"y"))[0] == b"y"
        assert not listener.ended.is_set()
        channel.close()

    with serving() as (address, service, _):
        run(talk(address, service))


def test_end_of_the_server_ends_calls_and_the_next_one_connects_anew() -> None:
    async def talk(channel: Channel, server: Any) -> None:
        listener, _ = await call(channel, "Wait", b"x")
        while not listener.messages:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(server.stop(0).wait)
        await listener.ended.wait()
        assert listener.error is not None
        with pytest.raises(GrpcError, match="no connection to 127"):
            await channel.ask("/test/Repeat", b"")
        with serving(channel._address):
            assert (await channel.ask("/test/Repeat", b"y"))[0] == b"y"
            channel.close()

    async def both(address: str, server: Any) -> None:
        await talk(Channel(address), server)

    with serving() as (address, _, server):
        run(both(address, server))


def test_closing_ends_calls() -> None:
    async def talk(address: str) -> None:
        channel = Channel(address)
        listener, _ = await call(channel, "Wait", b"x")
        channel.close()
        await listener.ended.wait()
        assert str(listener.error) == "the connection was closed"

    with serving() as (address, _, _):
        run(talk(address))
