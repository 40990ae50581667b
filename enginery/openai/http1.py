# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as the front end speaks it: uvicorn's faster protocol, with a bound on heads."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
# A byte of the body may come as a chunk of its own, with its length and two line breaks.
_CHUNK_BYTES = 8
_STATUS_LINE = b"HTTP/"


class HeadHolder:
    """A transport that sends the head of a response together with what follows it.

    Sent by itself it would wake the client, which takes this process's place on the core; where all
    cores compute, the first token would wait there until this process has its next turn.

    Args:
        transport: what sends; has all that is not here.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        """Of the transport."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends it; a head in the next turn of the event loop at the latest."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_STATUS_LINE):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Sends what is left and closes."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class HttpProtocol(HttpToolsProtocol):
    """A connection.

    The parser keeps a head, an extension of a chunk or a trailer for as long as it goes on. So what
    is no body is counted, and a request that has too much of it is answered with 400.
    """

    _num_bytes = 0
    """That came and are not accounted for by a body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        holder = HeadHolder(cast(asyncio.Transport, transport))
        super().connection_made(cast(asyncio.Transport, holder))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._num_bytes += len(data)
        super().data_received(data)
        if self._num_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head is too large: at most {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self._num_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `HttpToolsProtocol`."""
        self._num_bytes = max(0, self._num_bytes - _CHUNK_BYTES * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        self._num_bytes = 0
        super().on_message_complete()
