# SPDX-License-Identifier: Apache-2.0
"""What is asked of Triton server and what comes back, as the rest of the front end sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple, Protocol, Self

from .errors import ApiError

# Pieces that nobody took before they are joined: often enough for memory, seldom enough for time.
_JOIN_AFTER = 256


@dataclass(frozen=True)
class Generation:
    """One prompt and how to go on from it.

    Attributes:
        token_ids: of the prompt.
        num_sequences: drawn for it.
        inputs: further inputs of the model, in the names of `triton_backend.tensors`.
        streams: pieces as tokens come; else one per sequence at its end.
        request_id: what the model's log is to call it.
    """

    token_ids: Sequence[int]
    num_sequences: int = 1
    inputs: Mapping[str, Any] = field(default_factory=dict)
    streams: bool = False
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts and times of a sequence that has ended."""

    num_prompt_tokens: int
    num_output_tokens: int
    num_reused_tokens: int
    first_token_ns: int
    """CLOCK_MONOTONIC, as the other times; 0: there was none."""
    arrival_ns: int = 0
    first_scheduled_ns: int = 0
    last_token_ns: int = 0


class TokenLogprob(NamedTuple):
    """Natural logarithms of probabilities in place of one token."""

    log_prob: float
    """Of the token that is there."""
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logarithm) of the likeliest ones, likeliest first; as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """New tokens of a sequence."""

    sequence_index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    """One per token; empty when not asked for."""
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    """One per token of the prompt from the second on, in the first piece of a generation; None in
    others, and when not asked for."""
    finish_reason: str = ""
    """Empty while the sequence goes on; "stop" or "length"."""
    usage: Usage | None = None
    """In a sequence's last piece."""


Cancel = Callable[[], None]
"""Ends what was started; harmless when it has ended."""


class Receiver(Protocol):
    """Gets the pieces of a generation, in the event loop's thread; does not raise."""

    def on_piece(self, piece: Piece) -> None:
        """A piece came."""

    def on_end(self, error: BaseException | None) -> None:
        """No more come, and why where that is an error. Only the first call counts."""


class Model(Protocol):
    """Triton server, or what stands for it in tests."""

    async def start(self, generation: Generation, receiver: Receiver) -> Cancel:
        """Sends a request, whose pieces the receiver gets until it is cancelled.

        Raises:
            ApiError: it could not be sent.
        """

    async def is_ready(self) -> bool:
        """Whether requests would be served."""

    async def metrics(self) -> str:
        """The text of Triton server's `/metrics`; empty when it does not answer."""

    async def close(self) -> None:
        """Gives connections back."""


class Pieces:
    """The pieces of several generations as they come, together in one queue.

    What piled up for a sequence while nobody took it is joined, so that a slow reader of a fast
    model is sent fewer and larger pieces, and one that has stopped to read costs the bytes of its
    tokens. Use as an asynchronous context manager: leaving it
    cancels what still runs.
    """

    def __init__(self, model: Model, generations: Sequence[Generation]) -> None:
        self._model = model
        self._generations = generations
        self._cancels: list[tuple[_Receiver, Cancel]] = []
        self._num_left = sum(generation.num_sequences for generation in generations)
        self._queued: list[tuple[int, Piece]] = []
        self._join_at = _JOIN_AFTER
        self._changed = asyncio.Event()
        self._num_open = len(generations)
        self._error: BaseException | None = None

    async def take(self) -> list[tuple[int, Piece]]:
        """Waits for pieces: (choice, piece), choices numbered over all sequences of all prompts.

        Returns:
            At most one piece per choice; nothing when all have ended.

        Raises:
            ApiError: a generation failed; the others are cancelled when the context is left.
        """
        while not self._queued and self._num_open and self._error is None:
            self._changed.clear()
            await self._changed.wait()
        if not self._queued:
            self.raise_error()
        queued, self._queued = self._queued, []
        self._join_at = _JOIN_AFTER
        return _joined(queued)

    @property
    def are_complete(self) -> bool:
        """Whether the last piece of every sequence was taken."""
        return self._num_left == 0 and not self._queued

    @property
    def num_waiting(self) -> int:
        """Pieces that nobody has taken yet."""
        return len(self._queued)

    def raise_error(self) -> None:
        """Raises what made a generation fail, although pieces of before were not taken yet."""
        if self._error is not None:
            raise self._error

    async def start(self) -> None:
        """Begins to generate; entering the context does it where it was not done.

        Raises:
            ApiError: the model takes no requests; nothing goes on.
        """
        if self._cancels:
            return
        first = 0
        try:
            for generation in self._generations:
                receiver = _Receiver(self, first, generation.num_sequences)
                cancel = await self._model.start(generation, receiver)
                self._cancels.append((receiver, cancel))
                first += generation.num_sequences
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancels what still runs."""
        for receiver, cancel in self._cancels:
            if not receiver.has_all:  # its end is on the way
                cancel()

    def fail(self, error: BaseException) -> None:
        """Makes `take` raise `error`, unless it has another one to raise."""
        self._error = self._error or error
        self._changed.set()

    def add(self, choice: int, piece: Piece) -> None:
        """Queues a piece."""
        self._queued.append((choice, piece))
        if piece.finish_reason:
            self._num_left -= 1
        if self.num_waiting >= self._join_at:
            self._queued = _joined(self._queued)
            self._join_at = len(self._queued) + _JOIN_AFTER
        self._changed.set()

    def end_one(self) -> None:
        """One of the generations has ended."""
        self._num_open -= 1
        self._changed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class _Receiver:
    """Of one generation's pieces.

    Args:
        pieces: where they go.
        first_choice: what its first sequence is called there.
        num_sequences: that it has.
    """

    def __init__(self, pieces: Pieces, first_choice: int, num_sequences: int) -> None:
        self._pieces = pieces
        self._first_choice = first_choice
        self._num_left = num_sequences
        self._has_ended = False

    @property
    def has_all(self) -> bool:
        return self._num_left == 0

    def on_piece(self, piece: Piece) -> None:
        if piece.finish_reason:
            self._num_left -= 1
        self._pieces.add(self._first_choice + piece.sequence_index, piece)

    def on_end(self, error: BaseException | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if error is None and self._num_left:
            error = ApiError(500, f"the model ended without {self._num_left} of its sequences")
        if error is not None:
            self._pieces.fail(error)
        self._pieces.end_one()


def _joined(queued: list[tuple[int, Piece]]) -> list[tuple[int, Piece]]:
    if len(queued) == 1:
        return queued
    of_choices: dict[int, list[Piece]] = {}
    for choice, piece in queued:
        of_choices.setdefault(choice, []).append(piece)
    return [(choice, _join(pieces)) for choice, pieces in of_choices.items()]


def _join(pieces: Sequence[Piece]) -> Piece:
    """One piece of consecutive ones of a sequence."""
    if len(pieces) == 1:
        return pieces[0]
    return replace(
        pieces[-1],
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(chain.from_iterable(piece.token_ids for piece in pieces)),
        logprobs=tuple(chain.from_iterable(piece.logprobs for piece in pieces)),
        prompt_logprobs=pieces[0].prompt_logprobs,
    )
