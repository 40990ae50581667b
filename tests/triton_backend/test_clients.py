# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

from enginery.runtime.event import Event
from enginery.triton_backend.clients import Client, ClientWatch
from tests.support.events import event

DEADLINE_S = 30
FINAL = 1


class FakeSender:
    """Triton server's response sender; asking it after its last response is a crash there."""

    def __init__(self, is_gone: bool = False) -> None:
        self.is_gone = is_gone
        self.sent: list[tuple[Any, int]] = []
        self.num_asked = 0

    def is_cancelled(self) -> bool:
        assert not (self.sent and self.sent[-1][1] == FINAL)
        self.num_asked += 1
        return self.is_gone

    def send(self, response: Any, flags: int) -> None:
        self.sent.append((response, flags))


class FakeWriter:
    def tensors(self, sent: Event) -> dict[str, Any]:
        return {"text_output": sent.text}


@dataclass(frozen=True)
class FakeError:
    message: str
    code: int
    INTERNAL: ClassVar[int] = 13


class FakeResponse(NamedTuple):
    outputs: list[tuple[str, Any]] | None = None
    error: FakeError | None = None


def client(sender: FakeSender) -> Client:
    pb_utils = SimpleNamespace(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        InferenceResponse=FakeResponse,
        Tensor=lambda name, array: (name, array),
        TritonError=FakeError,
    )
    return Client(pb_utils, sender, FakeWriter())  # type: ignore[arg-type]


def test_last_response_is_final() -> None:
    sender = FakeSender()
    answering = client(sender)
    answering.send(event(text="a"))
    answering.send(event(text="b", is_last=True, finish_reason="LENGTH"))
    assert [response.outputs for response, _ in sender.sent] == [
        [("text_output", "a")],
        [("text_output", "b")],
    ]
    assert [flags for _, flags in sender.sent] == [0, FINAL]


def test_error_of_the_runtime_is_an_error_response() -> None:
    sender = FakeSender()
    client(sender).send(
        event(finish_reason="ERROR", is_last=True, status="OUT_OF_MEMORY", error="no block")
    )
    ((response, flags),) = sender.sent
    assert (response.error.message, response.error.code) == ("OUT_OF_MEMORY: no block", 13)
    assert flags == FINAL


def test_an_answered_client_is_not_asked_after() -> None:
    sender = FakeSender(is_gone=True)
    answering = client(sender)
    assert answering.is_gone()
    answering.send(event(is_last=True))
    assert not answering.is_gone()
    assert sender.num_asked == 1


def test_watch_cancels_those_who_left_and_asks_after_all() -> None:
    # More than are asked in a round, so that all of them takes several.
    senders = {i: FakeSender(is_gone=i % 100 == 0) for i in range(1, 401)}
    clients = {i: client(sender) for i, sender in senders.items()}
    cancelled: set[int] = set()
    all_asked = threading.Event()

    def cancel(request_id: int) -> None:
        cancelled.add(request_id)
        if len(cancelled) == 4:
            all_asked.set()

    watch = ClientWatch(lambda: dict(clients), cancel)
    assert all_asked.wait(DEADLINE_S)
    watch.close()
    assert cancelled == {100, 200, 300, 400}
    counts = {sender.num_asked for sender in senders.values()}
    assert max(counts) - min(counts) <= 1


def test_watch_survives_a_client_that_cannot_be_asked() -> None:
    broken, gone = FakeSender(), FakeSender(is_gone=True)
    broken.sent.append((None, FINAL))  # is_cancelled fails from now on
    was_cancelled = threading.Event()
    clients = {1: client(broken), 2: client(gone)}
    watch = ClientWatch(lambda: clients, lambda request_id: was_cancelled.set())
    assert was_cancelled.wait(DEADLINE_S)
    watch.close()
