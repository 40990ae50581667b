# SPDX-License-Identifier: Apache-2.0
"""Pieces of several generations, taken late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from enginery.openai.generation import Generation, Piece, Pieces, TokenLogprob, Usage
from tests.support.openai import FakeModel, run

NUM_TOKENS = 3000
NUM_SEQUENCES = 3


class FastModel(FakeModel):
    """Many tokens in every sequence, each token its own position."""

    async def generate(self, generation: Generation) -> AsyncIterator[Piece]:
        for position in range(NUM_TOKENS):
            is_last = position == NUM_TOKENS - 1
            for index in range(generation.num_sequences):
                yield Piece(
                    sequence_index=index,
                    text="abc"[index],
                    token_ids=(position,),
                    logprobs=(TokenLogprob(-position),),
                    prompt_logprobs=(TokenLogprob(-1.0),) if position == 0 else None,
                    finish_reason="length" if is_last else "",
                    usage=Usage(1, NUM_TOKENS, 0, 1) if is_last else None,
                )
            if position % 100 == 0:
                await asyncio.sleep(0)


def test_what_has_come_to_its_end_is_not_cancelled() -> None:
    """Triton server would be told that a client left, while it still ends the stream."""

    async def take(leaves_at: int) -> FakeModel:
        model = FakeModel()
        long, short = (Generation([1], inputs={"max_tokens": n}) for n in (5, 1))
        async with Pieces(model, [short, long]) as pieces:
            for _ in range(leaves_at):
                await pieces.take()
            assert pieces.are_complete == (leaves_at == 5)
        return model

    assert run(take(5)).num_cancelled == 0
    assert run(take(2)).num_cancelled == 1  # the long one


def test_what_nobody_takes_is_joined_as_it_comes() -> None:
    async def take_late() -> tuple[int, list[tuple[int, Piece]]]:
        generation = Generation([1], num_sequences=NUM_SEQUENCES, streams=True)
        async with Pieces(FastModel(), [generation, generation]) as pieces:
            most = 0
            for _ in range(NUM_TOKENS // 100 + 10):
                most = max(most, pieces.num_waiting)
                await asyncio.sleep(0)
            taken = await pieces.take()
            assert await pieces.take() == []
        return most, taken

    most, taken = run(take_late())
    assert most < 500
    assert [choice for choice, _ in taken] == [0, 1, 2, 3, 4, 5]
    for choice, piece in taken:
        assert piece.text == "abc"[choice % NUM_SEQUENCES] * NUM_TOKENS
        assert piece.token_ids == tuple(range(NUM_TOKENS))
        assert [entry.log_prob for entry in piece.logprobs] == [-p for p in range(NUM_TOKENS)]
        assert piece.prompt_logprobs == (TokenLogprob(-1.0),)
        assert (piece.finish_reason, piece.usage) == ("length", Usage(1, NUM_TOKENS, 0, 1))
