# SPDX-License-Identifier: Apache-2.0
"""gRPC calls on one HTTP/2 connection, which is made when it is needed and again when it is lost.

Of gRPC's protocol it has what Triton server needs: a message there, messages back, cancelling.
"""

from __future__ import annotations

import asyncio
from typing import Protocol
from urllib.parse import unquote

from .http2 import Connection, Headers, encode_headers

_PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length."""
_OK = "0"
_CONNECT_TIMEOUT_S = 20


class GrpcError(Exception):
    """A call that did not end well; says what the server said, or what became of the connection."""


class Listener(Protocol):
    """Gets what answers a call, in the event loop's thread; must not raise."""

    def on_message(self, message: bytes) -> None:
        """A message came."""

    def on_end(self, error: GrpcError | None) -> None:
        """The call has ended, and why where it did not end well; not called when cancelled."""


class Call:
    """A call whose message was sent.

    Args:
        connection: it is sent on.
        block: its headers.
        message: the only one there.
        listener: of what comes back.
    """

    def __init__(
        self, connection: Connection, block: bytes, message: bytes, listener: Listener
    ) -> None:
        self._connection = connection
        self._listener = listener
        self._partial = bytearray()
        self._num_needed = 0
        """Bytes that `_partial` must have before it is looked at again."""
        self._trailers: dict[str, str] = {}
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._stream_id = connection.send(block, body, self)

    def cancel(self) -> None:
        """Tells the server that nobody listens; harmless when it has ended."""
        self._connection.cancel(self._stream_id)

    def on_headers(self, headers: Headers) -> None:
        """See `http2.Receiver`."""
        self._trailers.update(headers)

    def on_data(self, data: bytes) -> None:
        """See `http2.Receiver`."""
        if self._partial:
            self._partial += data
            if len(self._partial) < self._num_needed:
                return
            data = bytes(self._partial)
            self._partial.clear()
        begin, size = 0, len(data)
        while True:
            end = begin + _PREFIX_BYTES
            if end <= size:
                end += int.from_bytes(data[begin + 1 : end], "big")
            if end > size:
                break
            self._listener.on_message(data[begin + _PREFIX_BYTES : end])
            begin = end
        if begin < size:
            self._partial += data[begin:]
            self._num_needed = end - begin

    def on_end(self, problem: str) -> None:
        """See `http2.Receiver`."""
        self._listener.on_end(self._error(problem))

    def _error(self, problem: str) -> GrpcError | None:
        status = self._trailers.get("grpc-status")
        if status == _OK:
            return None
        if status is not None:
            said = unquote(self._trailers.get("grpc-message", ""))
            return GrpcError(said or f"gRPC status {status}")
        code = self._trailers.get(":status", "200")
        return GrpcError(problem or f"the server answered with HTTP status {code}")


class Answers:
    """Collects what answers a call."""

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_message(self, message: bytes) -> None:
        """See `Listener`."""
        self._messages.append(message)

    def on_end(self, error: GrpcError | None) -> None:
        """See `Listener`."""
        if self._ended.done():  # nobody waits any more
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    async def all(self) -> list[bytes]:
        """Waits for the end of the call.

        Raises:
            GrpcError: it did not end well.
        """
        await self._ended
        return self._messages


class Channel:
    """Where calls go; all methods belong to one event loop.

    Args:
        address: host and port.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._blocks: dict[str, bytes] = {}

    async def start(self, method: str, message: bytes, listener: Listener) -> Call:
        """Sends a call; at once where there is a connection.

        Args:
            method: its path.
            message: the only one there.
            listener: of what comes back.

        Raises:
            GrpcError: there is no connection.
        """
        connection = self._connection
        if connection is None or not connection.is_usable:
            connection = await self._connect()
        block = self._blocks.get(method)
        if block is None:
            block = self._blocks[method] = self._headers(method)
        return Call(connection, block, message, listener)

    async def ask(self, method: str, message: bytes) -> list[bytes]:
        """All messages that answer a call.

        Raises:
            GrpcError: it did not end well.
        """
        answers = Answers()
        call = await self.start(method, message, answers)
        try:
            return await answers.all()
        finally:
            call.cancel()

    def close(self) -> None:
        """Ends the connection and the calls on it."""
        if self._connection is not None:
            self._connection.close()

    async def _connect(self) -> Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.is_usable:
                return self._connection  # somebody was faster
            host, _, port = self._address.rpartition(":")
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    _, self._connection = await loop.create_connection(
                        Connection, host.strip("[]"), int(port)
                    )
            except (OSError, TimeoutError) as error:
                raise GrpcError(f"no connection to {self._address}: {error}") from None
            return self._connection

    def _headers(self, method: str) -> bytes:
        return encode_headers(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", self._address),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "enginery"),
            ]
        )
