# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection (RFC 9113, without TLS) to a server that is trusted, in an event loop.

A library for gRPC hands each message through several threads before the event loop has it. Where
all cores compute, each of them waits for one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol, cast

import hpack

Headers = Sequence[tuple[str, str]]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_BYTES = 9
_MAX_FRAME_BYTES = 1 << 14
"""Of those that come: what a client that says nothing takes."""
_DEFAULT_WINDOW = (1 << 16) - 1
_MAX_WINDOW = (1 << 31) - 1
_GIVE_WINDOW_BYTES = 1 << 30
"""After so many bytes the sender is given the window back: it never waits for it."""
_MAX_STREAM_ID = (1 << 31) - 1


class _Frame(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY = 0x20

_SET_PUSH = 2
_SET_INITIAL_WINDOW = 4
_SET_MAX_FRAME = 5

_CANCEL = 8


class Receiver(Protocol):
    """Gets what comes on a stream. Nothing comes after `on_end`."""

    def on_headers(self, headers: Headers) -> None:
        """Those before the body, or the trailers behind it."""

    def on_data(self, data: bytes) -> None:
        """More of the body."""

    def on_end(self, problem: str) -> None:
        """The stream has ended; why, where it was not by itself."""


class _Stream:
    """A request and what is not yet sent of it."""

    def __init__(self, stream_id: int, receiver: Receiver, body: bytes, window: int) -> None:
        self.id = stream_id
        self.receiver = receiver
        self.unsent = memoryview(body)
        self.window = window
        """Bytes that the server takes of it."""
        self.num_received = 0
        """Bytes that came since the server was given its window."""


class _BrokenError(Exception):
    """The server does not keep to the protocol."""


def encode_headers(headers: Headers) -> bytes:
    """A block that any connection can send: it refers to nothing that was sent before."""
    literal = [hpack.NeverIndexedHeaderTuple(*header) for header in headers]
    return hpack.Encoder().encode(literal, huffman=False)


class Connection(asyncio.Protocol):
    """A connection; made by `loop.create_connection`, all methods belong to its event loop."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._decoder = hpack.Decoder()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._received = b""
        # A block that goes on in the next frame: stream, flags, what came.
        self._block: tuple[int, int, bytes] | None = None
        self._window = _DEFAULT_WINDOW
        self._stream_window = _DEFAULT_WINDOW
        self._max_frame_bytes = _MAX_FRAME_BYTES
        self._num_received = 0
        self._is_leaving = False

    @property
    def is_usable(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None and not self._is_leaving

    def send(self, block: bytes, body: bytes, receiver: Receiver) -> int:
        """Sends a request as far as the server takes it, and the rest when it does.

        Args:
            block: the headers, by `encode_headers`; at most 16 KiB.
            body: all of it; not empty.
            receiver: of the response.

        Returns:
            What the stream is called.
        """
        stream = _Stream(self._next_id, receiver, body, self._stream_window)
        self._next_id += 2
        self._is_leaving = self._is_leaving or self._next_id > _MAX_STREAM_ID
        self._streams[stream.id] = stream
        head = _frame(_Frame.HEADERS, _END_HEADERS, stream.id, block)
        self._write(b"".join([head, *self._next_frames(stream)]))
        return stream.id

    def cancel(self, stream_id: int) -> None:
        """Ends a stream; its receiver hears nothing more. Harmless when it has ended."""
        if self._streams.pop(stream_id, None) is not None:
            self._write(_frame(_Frame.RST_STREAM, 0, stream_id, struct.pack(">I", _CANCEL)))
            self._close_if_left()

    def close(self) -> None:
        """Ends the connection and all that goes on."""
        self._end("the connection was closed")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHI", _SET_PUSH, 0, _SET_INITIAL_WINDOW, _MAX_WINDOW)
        window = struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW)
        self._write(
            _PREFACE
            + _frame(_Frame.SETTINGS, 0, 0, settings)
            + _frame(_Frame.WINDOW_UPDATE, 0, 0, window)
        )

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(str(error) if error else "the server closed the connection")

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        data = self._received + data if self._received else data
        begin, size = 0, len(data)
        try:
            while size - begin >= _FRAME_HEAD_BYTES:
                num_bytes = int.from_bytes(data[begin : begin + 3], "big")
                if num_bytes > _MAX_FRAME_BYTES:
                    raise _BrokenError(f"a frame has {num_bytes} bytes")
                payload = begin + _FRAME_HEAD_BYTES
                if size < payload + num_bytes:
                    break
                stream_id = int.from_bytes(data[begin + 5 : payload], "big") & _MAX_STREAM_ID
                kind, flags = data[begin + 3], data[begin + 4]
                begin = payload + num_bytes
                self._handle(kind, flags, stream_id, data[payload:begin])
        except (_BrokenError, hpack.HPACKError, struct.error, IndexError) as error:
            self._end(f"what the server sends is no HTTP/2: {error}")
        self._received = data[begin:]

    def _handle(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is not None and kind != _Frame.CONTINUATION:
            raise _BrokenError(f"a frame of type {kind} comes within a block of headers")
        if kind == _Frame.DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == _Frame.HEADERS:
            block = _unpadded(flags, payload)
            self._on_block(stream_id, flags, block[5:] if flags & _PRIORITY else block)
        elif kind == _Frame.CONTINUATION:
            if self._block is None or self._block[0] != stream_id:
                raise _BrokenError("a block of headers goes on that did not begin")
            _, begun, block = self._block
            self._on_block(stream_id, begun | flags, block + payload)
        elif kind == _Frame.RST_STREAM:
            (code,) = struct.unpack(">I", payload)
            self._end_stream(stream_id, f"the server ended the stream (HTTP/2 error {code})")
        elif kind == _Frame.SETTINGS:
            if not flags & _ACK:
                self._on_settings(payload)
        elif kind == _Frame.PING:
            if not flags & _ACK:
                self._write(_frame(_Frame.PING, _ACK, 0, payload))
        elif kind == _Frame.GOAWAY:
            self._on_goaway(payload)
        elif kind == _Frame.WINDOW_UPDATE:
            self._on_window(stream_id, payload)
        elif kind == _Frame.PUSH_PROMISE:
            raise _BrokenError("it was told not to push")

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        num_bytes = len(payload)
        self._num_received += num_bytes
        if self._num_received >= _GIVE_WINDOW_BYTES:
            self._give_window(0, self._num_received)
            self._num_received = 0
        stream = self._streams.get(stream_id)
        if stream is None:  # cancelled, and the server had not heard of it
            return
        stream.num_received += num_bytes
        if stream.num_received >= _GIVE_WINDOW_BYTES:
            self._give_window(stream_id, stream.num_received)
            stream.num_received = 0
        stream.receiver.on_data(_unpadded(flags, payload))
        if flags & _END_STREAM:
            self._end_stream(stream_id, "")

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        if not flags & _END_HEADERS:
            if len(block) > _MAX_FRAME_BYTES:
                raise _BrokenError("a block of headers does not end")
            self._block = stream_id, flags, block
            return
        self._block = None
        # Also that of a cancelled stream: later ones refer to it.
        headers = [(str(name), str(value)) for name, value in self._decoder.decode(block)]
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.receiver.on_headers(headers)
        if flags & _END_STREAM:
            self._end_stream(stream_id, "")

    def _on_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _SET_INITIAL_WINDOW:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif name == _SET_MAX_FRAME:
                self._max_frame_bytes = value
        self._write(_frame(_Frame.SETTINGS, _ACK, 0, b""))
        self._send_rest(self._streams.values())

    def _on_window(self, stream_id: int, payload: bytes) -> None:
        (more,) = struct.unpack(">I", payload)
        if stream_id == 0:
            self._window += more & _MAX_WINDOW
            self._send_rest(self._streams.values())
        elif (stream := self._streams.get(stream_id)) is not None:
            stream.window += more & _MAX_WINDOW
            self._send_rest([stream])

    def _on_goaway(self, payload: bytes) -> None:
        last, code = struct.unpack(">II", payload[:8])
        self._is_leaving = True
        for stream_id in [each for each in self._streams if each > last & _MAX_STREAM_ID]:
            self._end_stream(stream_id, f"the server is ending (HTTP/2 error {code})")
        self._close_if_left()

    def _send_rest(self, streams: Iterable[_Stream]) -> None:
        frames = [frame for stream in streams for frame in self._next_frames(stream)]
        if frames:
            self._write(b"".join(frames))

    def _next_frames(self, stream: _Stream) -> list[bytes]:
        """Of the body, as much as the server takes."""
        frames = []
        while stream.unsent:
            room = min(self._window, stream.window, self._max_frame_bytes)
            if room <= 0:
                break
            part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            self._window -= len(part)
            stream.window -= len(part)
            flags = 0 if stream.unsent else _END_STREAM
            frames.append(_frame(_Frame.DATA, flags, stream.id, bytes(part)))
        return frames

    def _give_window(self, stream_id: int, num_bytes: int) -> None:
        self._write(_frame(_Frame.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", num_bytes)))

    def _end_stream(self, stream_id: int, problem: str) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.receiver.on_end(problem)
            self._close_if_left()

    def _close_if_left(self) -> None:
        if self._is_leaving and not self._streams:
            self._end("")

    def _end(self, problem: str) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.receiver.on_end(problem)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    head = struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id)
    return head + payload


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    num_padding = payload[0]
    if num_padding >= len(payload):
        raise _BrokenError("a frame has more padding than bytes")
    return payload[1 : len(payload) - num_padding]
