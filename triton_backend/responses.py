# SPDX-License-Identifier: Apache-2.0
"""From the runtime's events to the output tensors of a response."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from enginery.runtime.event import Event, Logprobs

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
T = TypeVar("T")


def merge(events: Iterable[Event]) -> list[Event]:
    """Joins events of the same sequence, so that a sender that fell behind catches up.

    Args:
        events: of one request, in order.

    Returns:
        At most one event per sequence; the request's last event stays last. What its first event
        said of the prompt is in the first.
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
                prompt_logprobs=_either(earlier.prompt_logprobs, event.prompt_logprobs),
                context_logits=_either(earlier.context_logits, event.context_logits),
                generation_logits=_joined(earlier.generation_logits, event.generation_logits),
            )
        merged[event.sequence_index] = event
    found = list(merged.values())
    for i, event in enumerate(found[1:], start=1):
        if event.prompt_logprobs is not None:
            found[0] = replace(found[0], prompt_logprobs=event.prompt_logprobs)
            found[i] = replace(event, prompt_logprobs=None)
    return found


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
        if self._request.sampling_params.logprobs is not None:
            tensors |= self._log_probs(event)
        if event.prompt_logprobs is not None:
            tensors["prompt_log_probs"] = _own(event.prompt_logprobs)
            if self._request.sampling_params.prompt_logprobs:
                tensors |= _likeliest("prompt_", event.prompt_logprobs)
        if self._request.returns_perf_metrics and event.finish_reason is not None:
            tensors |= _perf_metrics(event)
        return tensors

    def _log_probs(self, event: Event) -> Tensors:
        logprobs = event.logprobs or []
        total = self._cum_log_probs.get(event.sequence_index, 0.0)
        total += sum(entry[0][1] for entry in logprobs)
        self._cum_log_probs[event.sequence_index] = total
        tensors: Tensors = {
            "output_log_probs": _own(logprobs),
            "cum_log_probs": np.asarray([total], np.float32),
        }
        if self._request.sampling_params.logprobs:
            tensors |= _likeliest("", logprobs)
        return tensors


def _own(logprobs: Logprobs) -> npt.NDArray[np.float32]:
    """Of the tokens that are there."""
    return np.asarray([entry[0][1] for entry in logprobs], np.float32)


def _likeliest(prefix: str, logprobs: Logprobs) -> Tensors:
    """The outputs with the likeliest tokens in place of each one."""
    best = [pair for _, *others in logprobs for pair in others]
    return {
        f"{prefix}top_token_ids": np.asarray([token_id for token_id, _ in best], np.int32),
        f"{prefix}top_log_probs": np.asarray([logprob for _, logprob in best], np.float32),
    }


def _either(first: T | None, second: T | None) -> T | None:
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
