# SPDX-License-Identifier: Apache-2.0
"""From the runtime's events to the outputs of `tensorrt_llm`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.runtime.event import Event

from ..responses import Tensors
from .requests import RowRequest
from .token_text import CharacterGate, TokenBytes


class _Token(NamedTuple):
    token_id: int
    logprob: float
    logits: npt.NDArray[np.float32] | None


@dataclass
class _Sequence:
    """What of a sequence was sent."""

    gate: CharacterGate[_Token]
    num_tokens: int = 0
    log_probs: list[float] = field(default_factory=list)


class RowWriter:
    """Writes the responses of one row; used by one thread at a time.

    Args:
        row: what was asked for.
        token_bytes: of the engine.
        tokens_per_block: of the engine.
        batch_index: of the row.
        num_rows: of the request.
        wanted: the outputs that the client takes.
    """

    def __init__(
        self,
        row: RowRequest,
        token_bytes: TokenBytes,
        tokens_per_block: int,
        batch_index: int,
        num_rows: int,
        wanted: Collection[str],
    ) -> None:
        self._row = row
        self._token_bytes = token_bytes
        self._tokens_per_block = tokens_per_block
        self._batch_index = batch_index
        self._num_rows = num_rows
        self._wanted = wanted
        self._sequences: dict[int, _Sequence] = {}
        self._context_logits: npt.NDArray[np.float32] | None = None

    def tensors(self, event: Event) -> Tensors | None:
        """Outputs of an event, by name; None when all its tokens wait for their next ones."""
        sequence = self._sequences.setdefault(
            event.sequence_index, _Sequence(CharacterGate(self._shown))
        )
        if event.context_logits is not None:
            self._context_logits = event.context_logits
        tokens = sequence.gate.put(self._tokens(event))
        is_finished = event.finish_reason is not None
        if is_finished:
            tokens += sequence.gate.flush()
        if not tokens and not is_finished:
            return None
        sequence.num_tokens += len(tokens)
        sequence.log_probs += [token.logprob for token in tokens]
        tensors = self._outputs(event, sequence, tokens)
        return {name: array for name, array in tensors.items() if name in self._wanted}

    def _shown(self, token: _Token) -> bytes:
        return self._token_bytes.shown(token.token_id)

    def _tokens(self, event: Event) -> list[_Token]:
        logits = event.generation_logits
        tokens = [
            _Token(
                token_id,
                event.logprobs[i][0][1] if event.logprobs else 0.0,
                None if logits is None else logits[i],
            )
            for i, token_id in enumerate(event.token_ids)
        ]
        is_end = event.stop_token_id is not None and event.stop_token_id in self._row.end_token_ids
        return tokens[:-1] if is_end and tokens else tokens

    def _outputs(self, event: Event, sequence: _Sequence, tokens: list[_Token]) -> Tensors:
        row = self._row
        token_ids = [token.token_id for token in tokens]
        if row.repeats_prompt:
            token_ids = [*row.prompt_token_ids, *token_ids]
        tensors: Tensors = {
            "output_ids": np.asarray([[token_ids]], np.int32),
            "sequence_length": _int32(len(token_ids)),
        }
        if self._num_rows > 1:
            tensors["batch_index"] = _int32(self._batch_index)
        if row.sampling_params.n > 1:
            tensors["sequence_index"] = _int32(event.sequence_index)
        if row.returns_log_probs:
            tensors["output_log_probs"] = np.asarray([[sequence.log_probs]], np.float32)
            tensors["cum_log_probs"] = np.asarray([[sum(sequence.log_probs)]], np.float32)
        if self._context_logits is not None:
            tensors["context_logits"] = self._context_logits[np.newaxis]
        if row.sampling_params.return_generation_logits:
            tensors["generation_logits"] = self._generation_logits(tokens)
        if row.returns_num_input_tokens:
            tensors["num_input_tokens"] = _int32(event.num_prompt_tokens)
        if row.returns_num_output_tokens:
            tensors["num_output_tokens"] = _int32(sequence.num_tokens)
        if row.returns_perf_metrics:
            tensors |= self._perf_metrics(event)
        return tensors

    def _generation_logits(self, tokens: list[_Token]) -> npt.NDArray[np.float32]:
        rows = [token.logits for token in tokens if token.logits is not None]
        if not rows:
            return np.empty((1, 0, 1, 0) if self._row.is_streaming else (1, 1, 0, 0), np.float32)
        stacked = np.stack(rows)  # [tokens, vocab_size]
        axes = (0, 2) if self._row.is_streaming else (0, 1)
        return np.expand_dims(stacked, axes)

    def _perf_metrics(self, event: Event) -> Tensors:
        size = self._tokens_per_block
        # The last token drawn has no place in the KV cache: nothing was drawn after it.
        num_held = event.num_prompt_tokens + max(0, event.num_output_tokens - 1)
        total = -(-num_held // size)
        reused = event.num_reused_tokens // size
        tensors = {
            "kv_cache_alloc_total_blocks": _int32(total),
            "kv_cache_reused_blocks": _int32(reused),
            "kv_cache_alloc_new_blocks": _int32(total - reused),
            "acceptance_rate": np.zeros((1, 1), np.float32),
            "total_accepted_draft_tokens": _int32(0),
            "total_draft_tokens": _int32(0),
        }
        for name in ("arrival", "first_scheduled", "first_token", "last_token"):
            value = getattr(event, f"{name}_ns") or 0
            tensors[f"{name}_time_ns"] = np.asarray([[value]], np.int64)
        return tensors


def _int32(value: int) -> npt.NDArray[np.int32]:
    return np.asarray([[value]], np.int32)
