# SPDX-License-Identifier: Apache-2.0
"""Folds a request's events into its `RequestOutput`."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .event import Event
from .outputs import CompletionOutput, Logprob, RequestOutput
from .sampling_params import SamplingParams

_FINISH_REASONS = {
    "END_ID": "stop",
    "STOP": "stop",
    "LENGTH": "length",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timeout",
    "ERROR": "error",
}


class RequestTracker:
    """The state of one request; used by the dispatch thread alone after it was made.

    Args:
        output: empty, with one `CompletionOutput` per sequence.
        params: what was asked for.
    """

    def __init__(self, output: RequestOutput, params: SamplingParams) -> None:
        self.output = output
        self._params = params
        self._generation_logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in output.outputs]
        self._num_preemptions = [0] * len(output.outputs)

    def update(self, event: Event) -> None:
        """Adds what `event` brings."""
        for other in self.output.outputs:
            other.text_diff, other.token_ids_diff = "", []
        sequence = self.output.outputs[event.sequence_index]
        sequence.token_ids_diff = event.token_ids
        sequence.token_ids.extend(event.token_ids)
        if self._params.detokenize:
            sequence.text_diff = event.text
            sequence.text += event.text
        self._add_logprobs(sequence, event)
        if event.prompt_logprobs is not None:
            self.output.prompt_logprobs = [None, *map(_ranked, event.prompt_logprobs)]
        if event.context_logits is not None:
            self.output.context_logits = event.context_logits
        if event.generation_logits is not None:
            chunks = self._generation_logits[event.sequence_index]
            chunks.append(event.generation_logits)
            # One array at the end: growing it with every token would cost its square.
            if event.finish_reason is not None:
                sequence.generation_logits = np.concatenate(chunks)
        if event.finish_reason is not None:
            self._finish(sequence, event)
        self._update_metrics(event)
        self.output.finished = event.is_last

    def snapshot(self) -> RequestOutput:
        """A copy that later events do not change; arrays of logits are shared."""
        taken = copy.copy(self.output)
        taken.metrics = copy.copy(self.output.metrics)
        taken.outputs = [copy.copy(sequence) for sequence in self.output.outputs]
        for sequence in taken.outputs:
            sequence.token_ids = list(sequence.token_ids)
            if sequence.logprobs is not None:
                sequence.logprobs = list(sequence.logprobs)
        return taken

    def _add_logprobs(self, sequence: CompletionOutput, event: Event) -> None:
        if event.logprobs is None:
            return
        if sequence.logprobs is None or sequence.cumulative_logprob is None:
            sequence.logprobs, sequence.cumulative_logprob = [], 0.0
        for entry in event.logprobs:
            sequence.logprobs.append(_ranked(entry))
            sequence.cumulative_logprob += entry[0][1]

    def _finish(self, sequence: CompletionOutput, event: Event) -> None:
        reason = event.finish_reason or "ERROR"
        sequence.finish_reason = _FINISH_REASONS[reason]
        if reason == "STOP":
            if event.stop_string is not None:
                sequence.stop_reason = event.stop_string
            elif event.stop_token_id != self._params.end_id:
                sequence.stop_reason = event.stop_token_id
        elif reason == "ERROR":
            sequence.error = f"{event.status}: {event.error}"

    def _update_metrics(self, event: Event) -> None:
        metrics = self.output.metrics
        metrics.arrival_ns = event.arrival_ns
        for name, choose in (
            ("first_scheduled_ns", min),
            ("first_token_ns", min),
            ("last_token_ns", max),
        ):
            known = [t for t in (getattr(metrics, name), getattr(event, name)) if t is not None]
            setattr(metrics, name, choose(known, default=None))
        self._num_preemptions[event.sequence_index] = event.num_preemptions
        metrics.num_preemptions = sum(self._num_preemptions)
        metrics.num_reused_tokens = max(metrics.num_reused_tokens, event.num_reused_tokens)


def _ranked(entry: Sequence[tuple[int, float]]) -> dict[int, Logprob]:
    """One token's log probabilities: its own first, then those of the best."""
    (token_id, logprob), *best = entry
    ranks = {candidate: rank for rank, (candidate, _) in enumerate(best, start=1)}
    ranked = {token_id: Logprob(logprob, ranks.get(token_id))}
    for candidate, value in best:
        ranked.setdefault(candidate, Logprob(value, ranks[candidate]))
    return ranked
