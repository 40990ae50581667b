# SPDX-License-Identifier: Apache-2.0
"""Answers a call: whole or as a stream, timed, and cancelled when its client leaves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from . import sse
from .answers import Answer
from .calls import Call
from .clients import Stream, unless_client_leaves
from .errors import ApiError
from .generation import Model, Piece, Pieces
from .metrics import Metrics, Stopwatch

_LOG = logging.getLogger(__name__)

_Taken = list[tuple[int, Piece]]


async def answer_call(
    call: Call, answer: Answer, model: Model, metrics: Metrics, request: Request
) -> Response:
    """Generates and answers.

    A stream begins with the first tokens: what goes wrong before has a status of its own.

    Raises:
        ApiError: the model refused the call or failed before its first tokens.
        ClientLeftError: nobody waits any more.
    """
    named = [replace(each, request_id=answer.request_id) for each in call.generations]
    pieces = Pieces(model, named)
    stopwatch = Stopwatch(metrics)
    if not call.streams:
        is_whole = False
        try:
            await unless_client_leaves(request.receive, _collect(pieces, answer))
            is_whole = True
        finally:
            stopwatch.end(answer.usage(), answer.first_token_ns, is_whole)
        return Response(sse.to_json(answer.whole()), 200, media_type="application/json")
    try:
        first = await unless_client_leaves(request.receive, _first(pieces))
    except BaseException:
        stopwatch.end(answer.usage(), 0, False)
        await pieces.close()
        raise

    async def end(stayed: bool) -> None:
        stopwatch.end(answer.usage(), answer.first_token_ns, stayed)
        await pieces.close()

    body = _events(call, answer, pieces, first, stopwatch)
    return Stream(body, sse.HEADERS, sse.MEDIA_TYPE, end)


async def _collect(pieces: Pieces, answer: Answer) -> None:
    async with pieces:
        while taken := await pieces.take():
            answer.add(taken)


async def _first(pieces: Pieces) -> _Taken:
    pieces.start()
    taken = await pieces.take()
    pieces.raise_error()
    return taken


async def _events(
    call: Call, answer: Answer, pieces: Pieces, first: _Taken, stopwatch: Stopwatch
) -> AsyncIterator[bytes]:
    taken: Sequence[tuple[int, Piece]] = first
    try:
        while taken:
            stopwatch.note(taken)
            chunks = [sse.event(chunk) for chunk in answer.chunks(taken)]
            if chunks:
                yield b"".join(chunks)
            taken = await pieces.take()
        if call.includes_usage:
            yield sse.event(answer.usage_chunk())
    except ApiError as error:
        yield sse.event(error.body)
    except Exception as error:  # our bug: this stream pays, the others go on
        _LOG.exception("a stream failed")
        yield sse.event(ApiError(500, f"{type(error).__name__}: {error}").body)
    yield sse.DONE
