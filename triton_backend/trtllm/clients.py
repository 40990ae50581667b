# SPDX-License-Identifier: Apache-2.0
"""A request of several rows is answered row by row, over one sender of Triton server."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from enginery.runtime.event import Event

from ..clients import error_response, tensor_response
from .responses import RowWriter


class RequestNames(NamedTuple):
    """What a request to `tensorrt_llm` is called; "" for none."""

    triton_id: str
    """What its client chose; several requests may have one."""
    ticket: str
    """What `tensorrt_llm_bls` chose, for this one alone."""

    def are_asked_for(self, asked: RequestNames) -> bool:
        """Whether a request to stop what is called `asked` means this one."""
        if asked.ticket:
            return self.ticket == asked.ticket
        return self.triton_id == asked.triton_id


class BatchSender:
    """The client of all rows of a request.

    Args:
        pb_utils: Triton server's Python backend module.
        sender: the response sender of Triton server's request.
        num_rows: how many rows end before it is answered.
    """

    def __init__(self, pb_utils: Any, sender: Any, num_rows: int) -> None:
        self._pb_utils = pb_utils
        self._sender = sender
        self._num_open = num_rows
        # After the last response Triton server may free what is_cancelled asks about.
        self._lock = threading.Lock()

    def is_gone(self) -> bool:
        """Whether the client cancelled or went away before its last response."""
        with self._lock:
            return self._num_open > 0 and bool(self._sender.is_cancelled())

    def send(self, response: Any, *, ends_row: bool) -> None:
        """Sends a response; the end of the last row is the end of the request."""
        with self._lock:
            if self._num_open == 0:
                return
            self._num_open -= ends_row
            is_final = self._num_open == 0
            flags = self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_final else 0
            self._sender.send(response, flags=flags)

    def fail(self) -> None:
        """From now on nothing is sent: the request as a whole is answered with an error."""
        with self._lock:
            self._num_open = 0


class RowClient:
    """Who gets the responses of one row.

    Args:
        pb_utils: Triton server's Python backend module.
        batch: shared by the rows of the request.
        writer: makes tensors of events.
        names: what a request to stop may call it.
        client_request_id: what its client calls it, for logs.
    """

    def __init__(
        self,
        pb_utils: Any,
        batch: BatchSender,
        writer: RowWriter,
        names: RequestNames,
        client_request_id: str = "",
    ) -> None:
        self._pb_utils = pb_utils
        self._batch = batch
        self._writer = writer
        self.names = names
        self.client_request_id = client_request_id

    def is_gone(self) -> bool:
        """Whether the client cancelled or went away before its last response."""
        return self._batch.is_gone()

    def send(self, event: Event) -> None:
        """Sends a response, unless all tokens of the event wait for their next ones."""
        if event.finish_reason == "ERROR":
            response = error_response(self._pb_utils, event)
        else:
            tensors = self._writer.tensors(event)
            if tensors is None:
                return
            response = tensor_response(self._pb_utils, tensors)
        self._batch.send(response, ends_row=event.is_last)
