# SPDX-License-Identifier: Apache-2.0
"""What happened to one sequence of a request since its last event, copied out of the library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import abi

_FINISH_NAMES = {value: name for name, value in abi.FINISH_REASONS.items() if name != "NONE"}


@dataclass(frozen=True, slots=True)
class Event:
    """An `enginery_event`; times are nanoseconds of CLOCK_MONOTONIC, None where not yet."""

    request_id: int
    sequence_index: int
    finish_reason: str | None
    """One of "END_ID", "STOP", "LENGTH", "CANCELLED", "TIMEOUT", "ERROR"; None: goes on."""
    is_last: bool
    """No event of this request follows."""
    status: str
    """The status with which it ended in ERROR; else "OK"."""
    error: str
    token_ids: list[int]
    """New since the last event of the sequence."""
    text: str
    """New since the last event of the sequence; whole characters."""
    logprobs: list[list[tuple[int, float]]] | None
    """Per new token: (token id, natural log) of the one drawn, then of the best ones."""
    context_logits: npt.NDArray[np.float32] | None
    """float32 [num_prompt_tokens, vocab_size]."""
    generation_logits: npt.NDArray[np.float32] | None
    """float32 [len(token_ids), vocab_size]."""
    stop_string: str | None
    stop_token_id: int | None
    num_preemptions: int
    num_prompt_tokens: int
    num_reused_tokens: int
    num_output_tokens: int
    arrival_ns: int | None
    first_scheduled_ns: int | None
    first_token_ns: int | None
    last_token_ns: int | None


def read_event(raw: Any, vocab_size: int) -> Event:
    """Copies an `enginery_event`, so that the list it came from can be freed."""
    num_tokens = raw.num_token_ids
    token_ids: list[int] = raw.token_ids[:num_tokens] if num_tokens else []
    text = ctypes.string_at(raw.text, raw.text_bytes).decode("utf-8") if raw.text_bytes else ""
    logprobs = None
    if raw.logprobs and raw.logprobs_per_token:
        width = raw.logprobs_per_token
        flat = [
            (raw.logprobs[i].token_id, raw.logprobs[i].logprob) for i in range(num_tokens * width)
        ]
        logprobs = [flat[i * width : (i + 1) * width] for i in range(num_tokens)]
    return Event(
        request_id=raw.request_id,
        sequence_index=raw.sequence_index,
        finish_reason=_FINISH_NAMES.get(raw.finish_reason),
        is_last=bool(raw.is_last),
        status=abi.STATUS_NAMES.get(raw.status, f"STATUS_{raw.status}"),
        error=(raw.error or b"").decode("utf-8", "replace"),
        token_ids=token_ids,
        text=text,
        logprobs=logprobs,
        context_logits=_logits(raw.context_logits, raw.num_context_logits, vocab_size),
        generation_logits=_logits(raw.generation_logits, num_tokens, vocab_size),
        stop_string=(raw.stop_string or b"").decode("utf-8", "replace") or None,
        stop_token_id=None if raw.stop_token_id < 0 else raw.stop_token_id,
        num_preemptions=raw.num_preemptions,
        num_prompt_tokens=raw.num_prompt_tokens,
        num_reused_tokens=raw.num_reused_tokens,
        num_output_tokens=raw.num_output_tokens,
        arrival_ns=raw.arrival_ns or None,
        first_scheduled_ns=raw.first_scheduled_ns or None,
        first_token_ns=raw.first_token_ns or None,
        last_token_ns=raw.last_token_ns or None,
    )


def _logits(pointer: Any, num_rows: int, vocab_size: int) -> npt.NDArray[np.float32] | None:
    if not pointer:
        return None
    if num_rows == 0:
        return np.empty((0, vocab_size), np.float32)
    return np.ctypeslib.as_array(pointer, (num_rows, vocab_size)).copy()
