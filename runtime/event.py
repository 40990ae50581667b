# SPDX-License-Identifier: Apache-2.0
"""What happened to one sequence of a request since its last event, copied out of the library."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import abi

Logprobs: TypeAlias = list[list[tuple[int, float]]]
"""Per token: (token id, natural log) of the one that is there, then of the best ones."""

_LOGPROB_DTYPE = np.dtype([("token_id", np.int32), ("logprob", np.float32)])
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
    logprobs: Logprobs | None
    """Of the new tokens."""
    prompt_logprobs: Logprobs | None
    """Of the prompt's tokens from the second on, in the request's first event."""
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
        logprobs = _logprobs(raw.logprobs, num_tokens, raw.logprobs_per_token)
    prompt_logprobs = None
    if raw.prompt_logprobs_per_token:
        prompt_logprobs = _logprobs(
            raw.prompt_logprobs, raw.num_prompt_logprobs, raw.prompt_logprobs_per_token
        )
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
        prompt_logprobs=prompt_logprobs,
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


def _logprobs(pointer: Any, num_tokens: int, width: int) -> Logprobs:
    if num_tokens == 0:
        return []
    size = num_tokens * width * ctypes.sizeof(abi.Logprob)
    array = np.frombuffer(ctypes.string_at(pointer, size), _LOGPROB_DTYPE)
    flat = list(zip(array["token_id"].tolist(), array["logprob"].tolist(), strict=True))
    return [flat[i * width : (i + 1) * width] for i in range(num_tokens)]


def _logits(pointer: Any, num_rows: int, vocab_size: int) -> npt.NDArray[np.float32] | None:
    if not pointer:
        return None
    if num_rows == 0:
        return np.empty((0, vocab_size), np.float32)
    return np.ctypeslib.as_array(pointer, (num_rows, vocab_size)).copy()
