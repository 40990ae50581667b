# SPDX-License-Identifier: Apache-2.0
"""Clients that leave: each is watched while it waits, and what nobody waits for is ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CLIENT_LEFT


class ClientLeftError(Exception):
    """The client closed the connection before it had its answer."""


class ClientWatch:
    """Tells when a client has left.

    Args:
        receive: of the request, whose body was read.
        on_leave: called once, with the error that says so.
    """

    def __init__(self, receive: Receive, on_leave: Callable[[ClientLeftError], None]) -> None:
        self._receive = receive
        self._on_leave = on_leave
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Nobody asks any more."""
        self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_leave(ClientLeftError())


async def call_and_note(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, note: Callable[[int], None]
) -> None:
    """Lets an application answer.

    Args:
        app: the application.
        scope: of the request, as the next two.
        receive: as ASGI has it.
        send: likewise.
        note: called at the end with the status: `CLIENT_LEFT` where not all of the answer could be
            sent, 500 where the application failed.
    """
    status, is_whole = CLIENT_LEFT, False

    async def noting_send(message: Message) -> None:
        nonlocal status, is_whole
        await send(message)
        if message["type"] == "http.response.start":
            status = message["status"]
        elif not message.get("more_body", False):
            is_whole = True

    try:
        await app(scope, receive, noting_send)
    except Exception:
        status, is_whole = 500, True
        raise
    finally:
        note(status if is_whole else CLIENT_LEFT)


class Stream(Response):
    """A response that is sent piece by piece until it ends or its client leaves.

    Args:
        body: gives the pieces, each with whether it is the last, and raises ClientLeftError when
            the client has left.
        headers: of the response.
        media_type: of the response.
        on_end: called once with whether the client stayed to the end; it frees what `body` uses.
    """

    def __init__(
        self,
        body: AsyncIterator[tuple[bytes, bool]],
        headers: Mapping[str, str],
        media_type: str,
        on_end: Callable[[bool], None],
    ) -> None:
        # Without a body in the base class, which would say how long it is.
        self.status_code = 200
        self.background = None
        self.init_headers({**headers, "Content-Type": media_type})
        self._body = body
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it, as ASGI has it."""
        stayed = False
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            async with contextlib.aclosing(self._body) as body:  # type: ignore[type-var]
                await send(start)
                async for piece, is_last in body:
                    message = {"type": "http.response.body", "body": piece}
                    await send({**message, "more_body": not is_last})
            stayed = True
        except (ClientLeftError, OSError):
            pass
        finally:
            self._on_end(stayed)
