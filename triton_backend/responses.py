# SPDX-License-Identifier: Apache-2.0
"""From the runtime's events to the output tensors of a response."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.event import Event

from .requests import GenerationRequest

FINISH_REASONS = {
    None: "",
    "END_ID": "stop",
    "STOP": "stop",
    "LENGTH": "length",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "ERROR": "error",
}

Tensors = dict[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]


def merge(events: Iterable[Event]) -> list[Event]:
    """Joins events of the same sequence, so that a sender that fell behind catches up.

    Args:
        events: of one request, in order.

    Returns:
        At most one event per sequence; the request's last event stays last.
    """
    merged: dict[int, Event] = {}
    for event in events:
        earlier = merged.pop(event.sequence_index, None)
        if earlier is not None:
            event = replace(
                event,
                token_ids=earlier.token_ids + event.token_ids,
                text=earlier.text + event.text,
                logprobs=(earlier.logprobs or []) + (event.logprobs or []) or None,
                context_logits=_either(earlier.context_logits, event.context_logits),
                generation_logits=_joined(earlier.generation_logits, event.generation_logits),
            )
        merged[event.sequence_index] = event
    return list(merged.values())


class ResponseWriter:
    """Writes the responses of one request; used by one thread at a time.

    Args:
        request: what was asked for.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._cum_log_probs: dict[int, float] = {}
        self._started: set[int] = set()

    def tensors(self, event: Event) -> Tensors:
        """Output tensors of an event, by name."""
        text, token_ids = event.text, event.token_ids
        index = event.sequence_index
        if self._request.repeats_prompt and index not in self._started:
            text = (self._request.prompt or "") + text
            token_ids = [*self._request.prompt_token_ids, *token_ids]
        self._started.add(index)
        tensors: Tensors = {
            "text_output": _string(text),
            "output_ids": np.asarray(token_ids, np.int32),
            "sequence_index": _int32(index),
            "finish_reason": _string(FINISH_REASONS[event.finish_reason]),
        }
        if self._request.returns_log_probs:
            tensors |= self._log_probs(event)
        if self._request.returns_perf_metrics and event.finish_reason is not None:
            tensors |= _perf_metrics(event)
        return tensors

    def _log_probs(self, event: Event) -> Tensors:
        drawn = [entry[0][1] for entry in event.logprobs or []]
        total = self._cum_log_probs.get(event.sequence_index, 0.0) + sum(drawn)
        self._cum_log_probs[event.sequence_index] = total
        return {
            "output_log_probs": np.asarray(drawn, np.float32),
            "cum_log_probs": np.asarray([total], np.float32),
        }


def _either(first: Logits | None, second: Logits | None) -> Logits | None:
    return second if first is None else first


def _joined(first: Logits | None, second: Logits | None) -> Logits | None:
    if first is None or second is None:
        return _either(first, second)
    return np.concatenate([first, second])


def _perf_metrics(event: Event) -> Tensors:
    tensors = {
        "num_input_tokens": _int32(event.num_prompt_tokens),
        "num_output_tokens": _int32(event.num_output_tokens),
        "num_reused_tokens": _int32(event.num_reused_tokens),
    }
    for name in ("arrival", "first_scheduled", "first_token", "last_token"):
        tensors[f"{name}_time_ns"] = np.asarray([getattr(event, f"{name}_ns") or 0], np.int64)
    return tensors


def _string(text: str) -> npt.NDArray[Any]:
    return np.asarray([text.encode()], np.object_)


def _int32(value: int) -> npt.NDArray[np.int32]:
    return np.asarray([value], np.int32)
