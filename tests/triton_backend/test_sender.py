# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

from enginery.runtime.event import Event
from enginery.triton_backend.sender import SenderPool
from tests.support.events import event

DEADLINE_S = 30


class Recorder:
    """A recipient whose first response takes as long as the test wants."""

    def __init__(self, is_held: bool = False) -> None:
        self.events: list[Event] = []
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        if not is_held:
            self.may_go_on.set()

    def send(self, sent: Event) -> None:
        self.has_begun.set()
        assert self.may_go_on.wait(DEADLINE_S)
        self.events.append(sent)


class Gone:
    """A recipient that left."""

    def send(self, sent: Event) -> None:
        raise RuntimeError("client left")


def fails(request_id: int) -> None:
    raise AssertionError(request_id)


def test_close_sends_what_is_queued() -> None:
    recorders = {i: Recorder() for i in range(1, 40)}
    pool = SenderPool(3, fails)
    for i, recorder in recorders.items():
        pool.put(recorder, event(request_id=i, token_ids=[i]))
        pool.put(recorder, event(request_id=i, token_ids=[i + 1], is_last=True))
    pool.close()
    for i, recorder in recorders.items():
        assert [token for sent in recorder.events for token in sent.token_ids] == [i, i + 1]
        assert recorder.events[-1].is_last


def test_a_slow_client_gets_what_piled_up_in_one_response() -> None:
    recorder = Recorder(is_held=True)
    pool = SenderPool(1, fails)
    pool.put(recorder, event(token_ids=[0]))
    assert recorder.has_begun.wait(DEADLINE_S)
    for token in range(1, 10):
        pool.put(recorder, event(token_ids=[token]))
    recorder.may_go_on.set()
    pool.close()
    assert [sent.token_ids for sent in recorder.events] == [[0], [1, 2, 3, 4, 5, 6, 7, 8, 9]]


def test_put_never_waits_for_a_client() -> None:
    recorder = Recorder(is_held=True)
    pool = SenderPool(1, fails)
    for token in range(1000):  # would never end if one waited
        pool.put(recorder, event(token_ids=[token]))
    recorder.may_go_on.set()
    pool.close()
    assert [t for sent in recorder.events for t in sent.token_ids] == list(range(1000))


def test_failure_is_reported_and_others_are_served() -> None:
    failed: list[int] = []
    recorder = Recorder()
    pool = SenderPool(1, failed.append)
    pool.put(Gone(), event(request_id=5))
    pool.put(recorder, event(request_id=6, text="a"))
    pool.close()
    assert failed == [5]
    assert [sent.text for sent in recorder.events] == ["a"]
