# SPDX-License-Identifier: Apache-2.0
"""What the front end's HTTP/1.1 bounds and what it holds back, over real connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest
import uvicorn

from enginery.openai.http1 import MAX_HEAD_BYTES, HeadHolder, HttpProtocol
from tests.support.openai import DEADLINE_S, run

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
REFUSED = b"HTTP/1.1 400 Bad Request"
PIECE = 16 << 10


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the length of the body."""
    assert scope["type"] == "http"
    num_bytes, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        num_bytes += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{num_bytes} bytes".encode()})


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    config = uvicorn.Config(echo, port=0, http=HttpProtocol, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.001)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


def talk(data: Iterator[bytes], end: bytes, times: int = 1) -> bytes:
    """What the server answers until it has said `end` so often, or closes the connection."""

    async def work() -> bytes:
        async with serving() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def send() -> None:
                for piece in data:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)

            sending = asyncio.create_task(send())
            answer = b""
            with contextlib.suppress(ConnectionError):
                while answer.count(end) < times and (more := await reader.read(1 << 16)):
                    answer += more
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.close()
        return answer

    return run(work())


def endless(begin: bytes, goes_on: bytes) -> Iterator[bytes]:
    """As much as is refused, and more; fails where it is not."""
    yield begin
    for _ in range(16 * MAX_HEAD_BYTES // PIECE):
        yield goes_on * (PIECE // len(goes_on))


@pytest.mark.parametrize(
    ("begin", "goes_on"),
    [
        (b"GET /", b"a"),
        (HEAD + b"X: ", b"a"),
        (HEAD, b"X: 123456789012\r\n"),
        (CHUNKED + b"4;", b"a"),
        (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"a"),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X: 123456789012\r\n"),
    ],
    ids=["path", "value", "headers", "extension", "trailer", "trailers"],
)
def test_what_does_not_end_is_refused(begin: bytes, goes_on: bytes) -> None:
    answer = talk(endless(begin, goes_on), b"bytes")
    assert answer.startswith(REFUSED)
    assert f"at most {MAX_HEAD_BYTES} bytes".encode() in answer


def test_large_head_and_larger_bodies_are_taken() -> None:
    head = HEAD + b"X: " + b"a" * (MAX_HEAD_BYTES - 2000) + b"\r\n"
    body = b"b" * (4 * MAX_HEAD_BYTES)
    whole = head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    end = f"{len(body)} bytes\r\n0\r\n\r\n".encode()
    # What the first one had is not counted with the second.
    answer = talk(iter([whole, whole]), end, times=2)
    assert (answer.count(OK), answer.count(end)) == (2, 2)


def test_body_of_tiny_chunks_is_taken() -> None:
    num_bytes = 4 * MAX_HEAD_BYTES
    pieces = [CHUNKED, *[b"1\r\na\r\n" * (num_bytes // 16)] * 16, b"0\r\n\r\n"]
    assert talk(iter(pieces), f"{num_bytes} bytes".encode()).startswith(OK)


class Transport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.is_closed = True


def in_loop(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, DEADLINE_S))


def test_head_goes_with_what_follows_it_and_waits_for_nothing() -> None:
    async def work() -> None:
        transport = Transport()
        holder = HeadHolder(transport)  # type: ignore[arg-type]
        holder.write(b"HTTP/1.1 200 OK\r\n\r\n")
        assert transport.sent == []
        holder.write(b"first")
        holder.write(b"second")
        assert transport.sent == [b"HTTP/1.1 200 OK\r\n\r\nfirst", b"second"]
        holder.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await asyncio.sleep(0)
        assert transport.sent[2:] == [b"HTTP/1.1 204 No Content\r\n\r\n"]
        holder.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        holder.close()
        assert transport.sent[3:] == [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
        assert transport.is_closed
        assert holder.is_closed  # has what the transport has
        await asyncio.sleep(0)
        assert len(transport.sent) == 4

    in_loop(work())
