# SPDX-License-Identifier: Apache-2.0
"""Answers a call: whole or as a stream, timed, and cancelled when its client leaves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from . import sse
from .answers import Answer
from .calls import Call
from .clients import ClientLeftError, ClientWatch, Stream
from .errors import ApiError
from .generation import Model, Piece, Pieces
from .metrics import Metrics, Stopwatch

_LOG = logging.getLogger(__name__)


async def answer_call(
    call: Call, answer: Answer, model: Model, metrics: Metrics, request: Request
) -> Response:
    """Generates and answers.

    A stream begins with the first tokens: what goes wrong before has a status of its own.

    Raises:
        ApiError: the model refused the call or failed before its first tokens.
        ClientLeftError: nobody waits any more.
    """
    run = _Run(call, answer, Pieces(model, call.generations), Stopwatch(metrics))
    try:
        await run.pieces.start()
        run.watch = ClientWatch(request.receive, run.pieces.fail)
        if call.streams:
            first = await run.pieces.take()
            run.pieces.raise_error()
            return Stream(run.events(first), sse.HEADERS, sse.MEDIA_TYPE, run.end)
        while not run.pieces.are_complete and (taken := await run.pieces.take()):
            answer.add(taken)
    except BaseException:
        run.end(False)
        raise
    run.end(True)
    return Response(sse.to_json(answer.whole()), 200, media_type="application/json")


class _Run:
    """A call that is being answered, and what must be given back at its end."""

    def __init__(self, call: Call, answer: Answer, pieces: Pieces, stopwatch: Stopwatch) -> None:
        self.pieces = pieces
        self.watch: ClientWatch | None = None
        self._call = call
        self._answer = answer
        self._stopwatch = stopwatch

    def end(self, is_whole: bool) -> None:
        """Counts it and cancels what still runs.

        Args:
            is_whole: all of it was answered.
        """
        self._stopwatch.end(self._answer.usage(), self._answer.first_token_ns, is_whole)
        self.pieces.close()
        if self.watch is not None:
            self.watch.stop()

    async def events(self, taken: list[tuple[int, Piece]]) -> AsyncIterator[tuple[bytes, bool]]:
        """Events for these pieces and all that follow, and whether they are the last.

        Raises:
            ClientLeftError: nobody reads them.
        """
        chunks = b""
        try:
            while taken:
                self._stopwatch.note(taken)
                chunks = self._answer.chunks(taken)
                if self.pieces.are_complete:
                    break
                if chunks:
                    yield chunks, False
                    chunks = b""
                taken = await self.pieces.take()
            if self._call.includes_usage:
                chunks += sse.event(self._answer.usage_chunk())
        except ClientLeftError:
            raise
        except ApiError as error:
            chunks += sse.event(error.body)
        except Exception as error:  # our bug: this stream pays, the others go on
            _LOG.exception("a stream failed")
            chunks += sse.event(ApiError(500, f"{type(error).__name__}: {error}").body)
        yield chunks + sse.DONE, True
