# SPDX-License-Identifier: Apache-2.0
"""Threads that hand responses to Triton server, so that nothing waits in the engine's loop.

Each send costs a few tenths of a millisecond. A request belongs to one thread, which keeps its
responses in order; a thread that fell behind joins what has piled up for a sequence into one
response.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from enginery.runtime.event import Event

from .responses import merge

_LOG = logging.getLogger(__name__)


class Recipient(Protocol):
    """Who gets the events of one request."""

    def send(self, event: Event) -> None:
        """Sends one response; may raise when the client is gone."""


class SenderPool:
    """A fixed number of sender threads.

    Args:
        num_threads: at least 1.
        on_failure: called on the sender's thread with a request's id when sending raised.
    """

    def __init__(self, num_threads: int, on_failure: Callable[[int], None]) -> None:
        self._senders = [_Sender(i, on_failure) for i in range(num_threads)]

    def put(self, recipient: Recipient, event: Event) -> None:
        """Queues an event; returns at once."""
        self._senders[event.request_id % len(self._senders)].put(recipient, event)

    def close(self) -> None:
        """Sends what is queued and ends the threads."""
        for sender in self._senders:
            sender.close()


class _Sender:
    def __init__(self, index: int, on_failure: Callable[[int], None]) -> None:
        self._on_failure = on_failure
        self._queued: list[tuple[Recipient, Event]] = []
        self._changed = threading.Condition()
        self._is_closing = False
        # A daemon: a sender stuck in a dead server's queue must not keep its ports open.
        self._thread = threading.Thread(target=self._run, name=f"sender-{index}", daemon=True)
        self._thread.start()

    def put(self, recipient: Recipient, event: Event) -> None:
        with self._changed:
            self._queued.append((recipient, event))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._is_closing)
                queued, self._queued = self._queued, []
                if not queued:
                    return
            by_request: dict[int, tuple[Recipient, list[Event]]] = {}
            for recipient, event in queued:
                by_request.setdefault(event.request_id, (recipient, []))[1].append(event)
            for request_id, (recipient, events) in by_request.items():
                self._send(request_id, recipient, events)

    def _send(self, request_id: int, recipient: Recipient, events: list[Event]) -> None:
        try:
            for event in merge(events):
                recipient.send(event)
        except Exception as error:  # whatever Triton server raises for a client that is gone
            _LOG.warning("request %d: cannot send: %s", request_id, error)
            self._on_failure(request_id)
