# SPDX-License-Identifier: Apache-2.0
"""Answers in OpenAI's shapes: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import sse
from .calls import Call
from .generation import Piece, TokenLogprob, Usage
from .served import Served
from .token_texts import Offsets

Json = dict[str, Any]


class Answer(ABC):
    """Writes the answer to one call; its pieces are given in order, each once.

    Args:
        call: what was asked.
        served: the model that answers.
        request_id: what the request is called; part of the answer's id.
    """

    id_prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, call: Call, served: Served, request_id: str) -> None:
        self.id = f"{self.id_prefix}-{request_id}"
        self.request_id = request_id
        self._call = call
        self._served = served
        self._created = int(time.time())
        self._usages: dict[int, Usage] = {}
        self._num_output_tokens = 0
        self._texts: dict[int, list[str]] = {}
        self._finish_reasons: dict[int, str] = {}
        self._logprobs: dict[int, Json] = {}
        head = sse.to_json(self._head(self.chunk_object)).removesuffix("}")
        self._event_head = f'data: {head},"choices":['
        self._num_prompt_tokens = sum(len(each.token_ids) for each in call.generations)

    def chunks(self, pieces: Sequence[tuple[int, Piece]]) -> bytes:
        """Events of a stream for pieces; empty for those that add nothing that a client sees."""
        events: list[str] = []
        for choice, piece in pieces:
            self._note(choice, piece)
            self._num_output_tokens += len(piece.token_ids)
            is_first = choice not in self._texts
            self._texts.setdefault(choice, [])
            if is_first:
                events += map(self._event, self._opening(choice))
            logprobs = self._logprobs_of(choice, piece)
            if piece.text or piece.finish_reason or logprobs:
                events += map(self._event, self._delta(choice, piece, logprobs))
        return "".join(events).encode()

    def usage_chunk(self) -> Json:
        """The last chunk of a stream that was asked for token counts."""
        return {**self._head(self.chunk_object), "choices": [], "usage": self.usage()}

    def add(self, pieces: Sequence[tuple[int, Piece]]) -> None:
        """Keeps pieces for `whole`."""
        for choice, piece in pieces:
            self._note(choice, piece)
            if choice not in self._texts:
                self._texts[choice] = []
                self._keep_logprobs(choice, self._opening_logprobs(choice))
            self._texts[choice].append(piece.text)
            self._keep_logprobs(choice, self._logprobs_of(choice, piece))

    def whole(self) -> Json:
        """The answer, when all pieces were added."""
        choices = [
            {
                "index": choice,
                **self._text("".join(self._texts[choice]), choice),
                "logprobs": self._logprobs.get(choice),
                "finish_reason": self._finish_reasons[choice],
            }
            for choice in sorted(self._texts)
        ]
        return {**self._head(self.whole_object), "choices": choices, "usage": self.usage()}

    def usage(self) -> Json:
        """Token counts: each prompt once, however many sequences were drawn for it."""
        usages = self._usages
        of_prompts = [usages[i] for i in sorted(usages) if i % self._call.num_sequences == 0]
        num_prompt = sum(usage.num_prompt_tokens for usage in of_prompts)
        num_output = sum(usage.num_output_tokens for usage in usages.values())
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {
                "cached_tokens": sum(usage.num_reused_tokens for usage in of_prompts)
            },
        }

    @property
    def model_name(self) -> str:
        """The model that answers."""
        return self._served.name

    @property
    def usages(self) -> Mapping[int, Usage]:
        """Of the choices that have ended."""
        return self._usages

    @property
    def finish_reasons(self) -> list[str]:
        """Of the choices that have ended, in order."""
        return [self._finish_reasons[choice] for choice in sorted(self._finish_reasons)]

    @property
    def first_token_ns(self) -> int:
        """When the first token was drawn, of those of ended sequences; 0: there is none."""
        times = [usage.first_token_ns for usage in self._usages.values() if usage.first_token_ns]
        return min(times, default=0)

    def _note(self, choice: int, piece: Piece) -> None:
        if piece.finish_reason:
            self._finish_reasons[choice] = piece.finish_reason
        if piece.usage is not None:
            self._usages[choice] = piece.usage

    def _keep_logprobs(self, choice: int, logprobs: Json | None) -> None:
        for name, values in (logprobs or {}).items():
            known = self._logprobs.setdefault(choice, {})
            known[name] = None if values is None else known.get(name, []) + values

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._served.name,
        }

    def _event(self, choice: Json) -> str:
        """The event of a chunk with one choice. What all chunks have is written once."""
        usage = ""
        if self._call.counts_continuously:
            usage = f',"usage":{sse.to_json(self._usage_so_far())}'
        elif self._call.includes_usage:
            usage = ',"usage":null'
        return f"{self._event_head}{sse.to_json(choice)}]{usage}}}\n\n"

    def _usage_so_far(self) -> Json:
        """Token counts of a stream that goes on, as far as it was sent."""
        return {
            "prompt_tokens": self._num_prompt_tokens,
            "completion_tokens": self._num_output_tokens,
            "total_tokens": self._num_prompt_tokens + self._num_output_tokens,
        }

    @abstractmethod
    def _opening(self, choice: int) -> Iterator[Json]:
        """Choices of chunks before a sequence's first."""

    @abstractmethod
    def _delta(self, choice: int, piece: Piece, logprobs: Json | None) -> Iterator[Json]:
        """Choices of chunks for a piece."""

    @abstractmethod
    def _text(self, text: str, choice: int) -> Json:
        """The fields of a whole choice that have its text."""

    def _opening_logprobs(self, choice: int) -> Json | None:
        """Those of what a choice has before its first piece; None: there is nothing."""
        return None

    @abstractmethod
    def _logprobs_of(self, choice: int, piece: Piece) -> Json | None:
        """Log probabilities of a piece: lists that grow by being joined; None: not asked for."""


class CompletionAnswer(Answer):
    """POST /v1/completions."""

    id_prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(self, call: Call, served: Served, request_id: str) -> None:
        super().__init__(call, served, request_id)
        self._offsets: dict[int, Offsets] = {}
        self._prompt_logprobs: dict[int, Json] = {}

    def _prompt_index(self, choice: int) -> int:
        return choice // self._call.num_sequences

    def _prompt_text(self, choice: int) -> str:
        texts = self._call.prompt_texts
        return texts[self._prompt_index(choice)] if texts else ""

    def _note(self, choice: int, piece: Piece) -> None:
        super()._note(choice, piece)
        if piece.prompt_logprobs is not None:
            index = self._prompt_index(choice)
            token_ids = self._call.generations[index].token_ids
            offsets = Offsets(self._served.texts)
            # Nothing comes before the first token, so it has no probability.
            known = (None, *piece.prompt_logprobs)
            self._prompt_logprobs[index] = self._columns(token_ids, known, offsets)

    def _opening(self, choice: int) -> Iterator[Json]:
        text, logprobs = self._prompt_text(choice), self._opening_logprobs(choice)
        if text or logprobs:
            yield {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": None}

    def _opening_logprobs(self, choice: int) -> Json | None:
        return self._prompt_logprobs.get(self._prompt_index(choice))

    def _delta(self, choice: int, piece: Piece, logprobs: Json | None) -> Iterator[Json]:
        yield {
            "index": choice,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason or None,
        }

    def _text(self, text: str, choice: int) -> Json:
        return {"text": self._prompt_text(choice) + text}

    def _logprobs_of(self, choice: int, piece: Piece) -> Json | None:
        if self._call.num_logprobs is None or not piece.token_ids:
            return None
        first = len(self._prompt_text(choice))
        offsets = self._offsets.setdefault(choice, Offsets(self._served.texts, first))
        return self._columns(piece.token_ids, piece.logprobs, offsets)

    def _columns(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None], offsets: Offsets
    ) -> Json:
        texts = self._served.texts
        top = [
            None if entry is None else self._with_top(token_id, entry)
            for token_id, entry in zip(token_ids, logprobs, strict=True)
        ]
        return {
            "tokens": [texts.text_of(token_id) for token_id in token_ids],
            "token_logprobs": [None if e is None else _finite(e.log_prob) for e in logprobs],
            "top_logprobs": top if self._call.num_logprobs else None,
            "text_offset": offsets.next(token_ids),
        }

    def _with_top(self, token_id: int, entry: TokenLogprob) -> Json:
        """The likeliest tokens and the one that is there, by their texts."""
        found: Json = {}
        for other, log_prob in (*entry.top, (token_id, entry.log_prob)):
            found.setdefault(self._served.texts.text_of(other), _finite(log_prob))
        return found


class ChatAnswer(Answer):
    """POST /v1/chat/completions."""

    id_prefix = "chatcmpl"
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def _opening(self, choice: int) -> Iterator[Json]:
        yield self._with_delta(choice, {"role": "assistant", "content": ""}, None, None)

    def _delta(self, choice: int, piece: Piece, logprobs: Json | None) -> Iterator[Json]:
        if piece.text or logprobs:
            yield self._with_delta(choice, {"content": piece.text}, logprobs, None)
        if piece.finish_reason:
            yield self._with_delta(choice, {}, None, piece.finish_reason)

    def _with_delta(
        self, choice: int, delta: Json, logprobs: Json | None, finish_reason: str | None
    ) -> Json:
        return {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }

    def _text(self, text: str, choice: int) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _logprobs_of(self, choice: int, piece: Piece) -> Json | None:
        if self._call.num_logprobs is None or not piece.token_ids:
            return None
        content = [
            {
                **self._token(token_id, entry.log_prob),
                "top_logprobs": [self._token(*other) for other in entry.top],
            }
            for token_id, entry in zip(piece.token_ids, piece.logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, log_prob: float) -> Json:
        texts = self._served.texts
        return {
            "token": texts.text_of(token_id),
            "logprob": _finite(log_prob),
            "bytes": list(texts.bytes_of(token_id)),
        }


def _finite(log_prob: float) -> float:
    """As OpenAI writes what is never drawn: JSON has no infinity."""
    return max(log_prob, -9999.0)
