# SPDX-License-Identifier: Apache-2.0
"""One line per request at its end, on standard error: JSON, or the same fields as name=value.

The native backend writes the same lines (native/request_log.cc); both are tested with one golden
file.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

from enginery.runtime.errors import EngineryError
from enginery.runtime.event import Event

from .responses import FINISH_REASONS

OFF, TEXT, JSON = "", "text", "json"
FORMATS = (TEXT, JSON)

Fields: TypeAlias = dict[str, str | int | None]

# As the runtime has it.
_MAX_ID_BYTES = 256
# What a value of the text form may hold without quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_.:/+-]+")


class Now(NamedTuple):
    """One moment on both clocks."""

    unix_ms: int
    monotonic_ns: int

    @classmethod
    def read(cls) -> Now:
        """This moment."""
        return cls(time.time_ns() // 1_000_000, time.monotonic_ns())


class _Progress:
    """What is known of a request in flight."""

    __slots__ = ("first_token_ns", "num_output_tokens")

    def __init__(self) -> None:
        self.first_token_ns: int | None = None
        self.num_output_tokens: dict[int, int] = {}
        """By the index of the sequence."""


def client_request_id_of(request: Any) -> str:
    """What a client calls its request, for logs: "" for nothing, a remark for what is not fit.

    Args:
        request: Triton server's.
    """
    try:
        text = str(request.request_id())
    except UnicodeDecodeError:  # HTTP lets it through
        return "(not UTF-8)"
    num_bytes = len(text.encode())
    return text if num_bytes <= _MAX_ID_BYTES else f"({num_bytes} bytes)"


class RequestLog:
    """Everything may be called from any thread.

    Args:
        form: "text" or "json"; "" writes nothing.
        model_name: in each line.
        write: takes each line, with its end.
        clock: when a request has ended.
    """

    def __init__(
        self,
        form: str,
        model_name: str,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], Now] = Now.read,
    ) -> None:
        self._form = form
        self._model_name = model_name
        self._write = write or _write_stderr
        self._clock = clock
        self._lock = threading.Lock()
        self._requests: dict[int, _Progress] = {}

    def add(self, event: Event, client_request_id: str) -> None:
        """Takes an event, those of a request in their order; the last one ends its line."""
        if not self._form:
            return
        with self._lock:
            request = self._requests.setdefault(event.request_id, _Progress())
            request.first_token_ns = request.first_token_ns or event.first_token_ns
            request.num_output_tokens[event.sequence_index] = event.num_output_tokens
            if not event.is_last:
                return
            del self._requests[event.request_id]
        now = self._clock()
        arrival_ns = event.arrival_ns
        self._end(
            now,
            {
                "client_request_id": client_request_id,
                "request_id": event.request_id,
                "finish_reason": FINISH_REASONS[event.finish_reason],
                "status": event.status,
                "num_prompt_tokens": event.num_prompt_tokens,
                "num_reused_tokens": event.num_reused_tokens,
                "num_output_tokens": sum(request.num_output_tokens.values()),
                "queue_us": _microseconds(arrival_ns, event.first_scheduled_ns),
                "ttft_us": _microseconds(arrival_ns, request.first_token_ns),
                "e2e_us": _microseconds(arrival_ns, now.monotonic_ns),
                "error": event.error,
            },
        )

    def refuse(self, client_request_id: str, error: EngineryError) -> None:
        """Takes a request that the runtime never had."""
        if not self._form:
            return
        self._end(
            self._clock(),
            {
                "client_request_id": client_request_id,
                "request_id": None,
                "finish_reason": "error",
                "status": error.status,
                "num_prompt_tokens": None,
                "num_reused_tokens": None,
                "num_output_tokens": None,
                "queue_us": None,
                "ttft_us": None,
                "e2e_us": None,
                "error": str(error),
            },
        )

    def _end(self, now: Now, fields: Fields) -> None:
        moment = datetime.fromtimestamp(now.unix_ms / 1000, UTC)
        shown: Fields = {
            "event": "request",
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{now.unix_ms % 1000:03}Z",
            "model": self._model_name,
            **fields,
        }
        if self._form == JSON:
            line = _to_json(shown)
        else:
            line = " ".join(f"{name}={_to_text(value)}" for name, value in shown.items())
        self._write(f"{line}\n")


def _write_stderr(line: str) -> None:
    sys.stderr.write(line)
    sys.stderr.flush()


def _microseconds(start_ns: int | None, end_ns: int | None) -> int | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) // 1000


def _to_json(value: Fields | str) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _to_text(value: str | int | None) -> str:
    if value is None:
        return "-"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _to_json(text)
