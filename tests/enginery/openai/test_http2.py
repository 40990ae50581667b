# SPDX-License-Identifier: Apache-2.0
"""The HTTP/2 connection, frame by frame."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import Any, cast

import hpack
import pytest

from enginery.openai.http2 import Connection, Headers, encode_headers

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9
)  # fmt: skip
END_STREAM, END_HEADERS, PADDED, PRIORITY = 0x1, 0x4, 0x8, 0x20
LONG = bytes(9999)
BLOCK = encode_headers([(":method", "POST"), ("te", "trailers")])
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass
class Receiver:
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    problems: list[str] = field(default_factory=list)

    def on_headers(self, headers: Headers) -> None:
        self.headers += headers

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self, problem: str) -> None:
        self.problems.append(problem)


@dataclass
class Transport:
    written: bytes = b""
    is_closed: bool = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """(type, flags, stream, payload) of what was written since the last call."""
        data, self.written = self.written.removeprefix(PREFACE), b""
        found = []
        while data:
            num_bytes = int.from_bytes(data[:3], "big")
            kind, flags, stream_id = struct.unpack(">BBI", data[3:9])
            found.append((kind, flags, stream_id, data[9 : 9 + num_bytes]))
            data = data[9 + num_bytes :]
        return found


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def connection(transport: Transport) -> Connection:
    made = Connection()
    made.connection_made(cast(asyncio.Transport, transport))
    assert transport.written.startswith(PREFACE)
    kinds = [found[0] for found in transport.frames()]
    assert kinds == [SETTINGS, WINDOW_UPDATE]
    return made


def asked(connection: Connection, body: bytes = b"body") -> Receiver:
    receiver = Receiver()
    connection.send(BLOCK, body, receiver)
    return receiver


def test_response_comes_in_any_pieces(connection: Connection, transport: Transport) -> None:
    receivers = [asked(connection), asked(connection)]
    assert [found[2] for found in transport.frames()] == [1, 1, 3, 3]
    encoder = hpack.Encoder()
    status = encoder.encode([(":status", "200"), ("a", "b" * 50)])
    again = encoder.encode([(":status", "200"), ("a", "b" * 50)])  # refers to the first
    assert len(again) < 5
    padded = bytes([3]) + status + bytes(3)
    prioritised = bytes([2]) + bytes(5) + again[:1] + bytes(2)
    stream = b"".join(
        [
            frame(HEADERS, END_HEADERS | PADDED, 1, padded),
            frame(DATA, 0, 1, b"one"),
            frame(HEADERS, PADDED | PRIORITY, 3, prioritised),
            frame(CONTINUATION, END_HEADERS, 3, again[1:]),
            frame(DATA, PADDED, 3, bytes([4]) + b"two" + bytes(4)),
            frame(99, 0xFF, 1, b"a type that nobody knows"),
            frame(DATA, END_STREAM, 1, b""),
            frame(HEADERS, END_HEADERS | END_STREAM, 3, encoder.encode([("end", "yes")])),
        ]
    )
    for index in range(len(stream)):
        connection.data_received(stream[index : index + 1])
    assert [(r.body, r.problems) for r in receivers] == [(b"one", [""]), (b"two", [""])]
    assert receivers[0].headers == [(":status", "200"), ("a", "b" * 50)]
    assert receivers[1].headers == [(":status", "200"), ("a", "b" * 50), ("end", "yes")]
    assert not transport.is_closed


def test_body_is_sent_as_the_server_takes_it(connection: Connection, transport: Transport) -> None:
    body = bytes(range(256)) * 400
    asked(connection, body)
    settings = struct.pack(">HIHI", 4, 100_000, 5, 20_000)
    sent = transport.frames()[1:]
    assert [len(found[3]) for found in sent] == [16384, 16384, 16384, 16383]  # 65535 at first
    connection.data_received(frame(SETTINGS, 0, 0, settings))
    assert transport.frames() == [(SETTINGS, 1, 0, b"")]  # the connection's window is still used up
    connection.data_received(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 50_000)))
    more = transport.frames()
    assert [len(found[3]) for found in more] == [20_000, 14_465]  # 100000 of the stream in all
    connection.data_received(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 50_000)))
    last = transport.frames()
    assert [found[1] for found in sent + more + last] == [0, 0, 0, 0, 0, 0, END_STREAM]
    assert b"".join(found[3] for found in sent + more + last) == body


def test_server_that_shrinks_the_window_waits_for_its_own_update(
    connection: Connection, transport: Transport
) -> None:
    asked(connection, bytes(70_000))
    connection.data_received(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10)))
    connection.data_received(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 100_000)))
    transport.frames()
    connection.data_received(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 65_525)))
    assert transport.frames() == []  # up to zero
    connection.data_received(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
    assert [len(found[3]) for found in transport.frames()] == [1]


def test_ping_is_answered(connection: Connection, transport: Transport) -> None:
    connection.data_received(frame(PING, 0, 0, b"12345678") + frame(PING, 1, 0, b"87654321"))
    assert transport.frames() == [(PING, 1, 0, b"12345678")]


def test_cancelled_stream_hears_nothing(connection: Connection, transport: Transport) -> None:
    receiver = asked(connection)
    other = asked(connection)
    transport.frames()
    connection.cancel(1)
    connection.cancel(1)
    assert transport.frames() == [(RST_STREAM, 0, 1, struct.pack(">I", 8))]
    encoder = hpack.Encoder()
    connection.data_received(frame(HEADERS, END_HEADERS, 1, encoder.encode([("a", "b" * 50)])))
    connection.data_received(frame(DATA, END_STREAM, 1, b"late"))
    # The headers of the cancelled one are what this block refers to.
    connection.data_received(frame(HEADERS, END_HEADERS, 3, encoder.encode([("a", "b" * 50)])))
    assert (receiver.headers, receiver.body, receiver.problems) == ([], b"", [])
    assert other.headers == [("a", "b" * 50)]


def test_reset_says_so(connection: Connection) -> None:
    receiver, other = asked(connection), asked(connection)
    connection.data_received(frame(RST_STREAM, 0, 1, struct.pack(">I", 7)))
    assert receiver.problems == ["the server ended the stream (HTTP/2 error 7)"]
    assert other.problems == []


def test_goaway_lets_what_the_server_knows_end(
    connection: Connection, transport: Transport
) -> None:
    known, unknown = asked(connection), asked(connection)
    connection.data_received(frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"bye"))
    assert not connection.is_usable
    assert unknown.problems == ["the server is ending (HTTP/2 error 0)"]
    assert (known.problems, transport.is_closed) == ([], False)
    connection.data_received(frame(DATA, END_STREAM, 1, b"last"))
    assert (known.body, known.problems, transport.is_closed) == (b"last", [""], True)


def test_lost_connection_ends_all(connection: Connection, transport: Transport) -> None:
    receivers = [asked(connection) for _ in range(3)]
    connection.connection_lost(ConnectionResetError("reset"))
    assert [receiver.problems for receiver in receivers] == [["reset"]] * 3
    assert not connection.is_usable


def test_windows_are_given_back(
    connection: Connection, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginery.openai.http2._GIVE_WINDOW_BYTES", 1000)
    asked(connection)
    asked(connection)
    transport.frames()
    for stream_id in (1, 3, 1):
        connection.data_received(frame(DATA, 0, stream_id, bytes(600)))
    given = [(kind, stream_id, payload) for kind, _, stream_id, payload in transport.frames()]
    assert given == [
        (WINDOW_UPDATE, 0, struct.pack(">I", 1200)),
        (WINDOW_UPDATE, 1, struct.pack(">I", 1200)),
    ]


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("a frame has 16385 bytes", frame(DATA, 0, 1, bytes(16_385))),
        ("more padding than bytes", frame(DATA, PADDED, 1, bytes([3, 0, 0]))),
        ("index out of range", frame(DATA, PADDED, 1, b"")),
        ("unpack requires a buffer of 4 bytes", frame(RST_STREAM, 0, 1, b"abc")),
        ("unpack requires a buffer of 4 bytes", frame(WINDOW_UPDATE, 0, 1, b"abc")),
        ("iterative unpacking requires", frame(SETTINGS, 0, 0, b"abc")),
        ("unpack requires a buffer of 8 bytes", frame(GOAWAY, 0, 0, b"abc")),
        ("it was told not to push", frame(PUSH_PROMISE, 0, 1, bytes(8))),
        ("goes on that did not begin", frame(CONTINUATION, END_HEADERS, 1, b"")),
        ("within a block of headers", frame(HEADERS, 0, 1, b"") + frame(PING, 0, 0, bytes(8))),
        ("does not end", frame(HEADERS, 0, 1, bytes(9999)) + frame(CONTINUATION, 0, 1, LONG)),
        ("no HTTP/2", frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff")),
        ("no HTTP/2", b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ],
)  # fmt: skip
def test_what_is_no_http2_ends_the_connection(
    what: str, sent: bytes, connection: Connection, transport: Transport
) -> None:
    receiver = asked(connection)
    connection.data_received(sent)
    (problem,) = receiver.problems
    assert what in problem
    assert transport.is_closed
    connection.data_received(frame(DATA, END_STREAM, 1, b"more"))
    assert (receiver.body, receiver.problems) == (b"", [problem])


def test_headers_are_the_same_on_every_connection() -> None:
    headers: list[Any] = [(":method", "POST"), (":path", "/x" * 100), ("te", "trailers")]
    block = encode_headers(headers)
    assert block == encode_headers(headers)
    for _ in range(2):
        assert list(hpack.Decoder().decode(block)) == headers
