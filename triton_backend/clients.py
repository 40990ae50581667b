# SPDX-License-Identifier: Apache-2.0
"""Requests in flight on the side of their clients: answering them, and noticing that they left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from enginery.runtime.event import Event

from .responses import ResponseWriter, Tensors

_LOG = logging.getLogger(__name__)

_PERIOD_S = 0.05
# Asking Triton server whether a client is gone is a message to another process: so many a round.
_CHECKS_PER_ROUND = 128


class Watched(Protocol):
    """Who may go away before the last response."""

    def is_gone(self) -> bool:
        """Whether the client cancelled or went away before its last response."""


class RequestClient(Watched, Protocol):
    """Who gets the responses of one request of the runtime.

    Attributes:
        client_request_id: what it calls the request, for logs.
    """

    client_request_id: str

    def send(self, event: Event) -> None:
        """Sends one response; may raise when the client is gone."""


class Client:
    """Who gets the responses of one request.

    Args:
        pb_utils: Triton server's Python backend module.
        sender: the response sender of Triton server's request.
        writer: makes tensors of events.
        client_request_id: what it calls the request, for logs.
    """

    def __init__(
        self, pb_utils: Any, sender: Any, writer: ResponseWriter, client_request_id: str = ""
    ) -> None:
        self._pb_utils = pb_utils
        self._sender = sender
        self._writer = writer
        self.client_request_id = client_request_id
        # After the last response Triton server may free what is_cancelled asks about.
        self._lock = threading.Lock()
        self._is_answered = False

    def is_gone(self) -> bool:
        """Whether the client cancelled or went away before its last response."""
        with self._lock:
            return not self._is_answered and bool(self._sender.is_cancelled())

    def send(self, event: Event) -> None:
        """Sends one response; whatever Triton server raises, it raises."""
        pb_utils = self._pb_utils
        response = self._response(event)
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if event.is_last else 0
        with self._lock:
            self._is_answered = event.is_last
            self._sender.send(response, flags=flags)

    def _response(self, event: Event) -> Any:
        if event.finish_reason == "ERROR":
            return error_response(self._pb_utils, event)
        return tensor_response(self._pb_utils, self._writer.tensors(event))


def error_response(pb_utils: Any, event: Event) -> Any:
    """The response to a request that ended in ERROR."""
    error = pb_utils.TritonError(f"{event.status}: {event.error}", pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=error)


def tensor_response(pb_utils: Any, tensors: Tensors) -> Any:
    """A response of output tensors, by name."""
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, array) for name, array in tensors.items()]
    )


class ClientWatch:
    """A thread that cancels the requests of clients that are gone.

    Triton server notices at once that a gRPC client left. That an HTTP client left it notices when
    it writes to it: with the next tokens of a stream, but at the end of a request that does not
    stream, which is bounded by its max_tokens and timeout_ms alone.

    Args:
        clients: gives the requests in flight, a copy.
        cancel: called with the id of a request whose client is gone, perhaps more than once.
    """

    def __init__(
        self,
        clients: Callable[[], Mapping[int, Watched]],
        cancel: Callable[[int], None],
    ) -> None:
        self._clients = clients
        self._cancel = cancel
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._is_closing.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        last_asked = 0
        while not self._is_closing.wait(_PERIOD_S):
            clients = self._clients()
            # Ids grow: those after the last one asked come first, so that everyone's turn comes.
            ids = sorted(clients, key=lambda request_id: (request_id <= last_asked, request_id))
            for request_id in ids[:_CHECKS_PER_ROUND]:
                last_asked = request_id
                try:
                    if clients[request_id].is_gone():
                        self._cancel(request_id)
                except Exception:
                    _LOG.exception("request %d: cannot ask for its client", request_id)
