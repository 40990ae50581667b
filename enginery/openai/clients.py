# SPDX-License-Identifier: Apache-2.0
"""Clients that leave: each is watched while it waits, and what nobody waits for is ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import CLIENT_LEFT

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed the connection before it had its answer."""


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client leaves.

    Args:
        receive: of the request, whose body was read.
        work: whatever the client waits for.

    Raises:
        ClientLeftError: it left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_leave(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeftError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _wait_for_leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
        body: gives the pieces; closed in either case.
        headers: of the response.
        media_type: of the response.
        on_end: awaited once with whether the client stayed to the end; it frees what `body` uses,
            which cannot do so itself where the client leaves before its first piece.
    """

    def __init__(
        self,
        body: AsyncIterator[bytes],
        headers: Mapping[str, str],
        media_type: str,
        on_end: Callable[[bool], Awaitable[None]],
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
        try:
            await unless_client_leaves(receive, self._send(send))
            stayed = True
        except (ClientLeftError, OSError):
            pass
        finally:
            await self._on_end(stayed)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with contextlib.aclosing(self._body) as body:  # type: ignore[type-var]
            await send(start)
            async for piece in body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
