# SPDX-License-Identifier: Apache-2.0
"""What every request passes before it is read: its API key, and the size of its body."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .clients import ClientLeftError
from .errors import ApiError

# What says nothing of users: for probes, and the page that asks for the key.
OPEN_PATHS = frozenset(("/", "/health", "/health/ready"))
# A body that does not come ties up memory; the slowest honest client is faster.
_BODY_TIMEOUT_S = 60


class CheckApiKey:
    """ASGI middleware that asks for `Authorization: Bearer KEY`.

    Args:
        app: what answers when the key is right.
        keys: any of them is.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 401."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and self._keys:
            given = Headers(scope=scope).get("authorization", "")
            kind, _, key = given.partition(" ")
            if kind.lower() != "bearer" or not self._is_right(key.strip()):
                error = ApiError(
                    401,
                    "a right API key is needed: send Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_right(self, key: str) -> bool:
        # All are compared, each in constant time: how long it takes says nothing of a key.
        raw = key.encode("latin-1", "replace")
        return bool(sum([hmac.compare_digest(raw, right) for right in self._keys]))


class LimitBody:
    """ASGI middleware that reads the body before the request is answered.

    Args:
        app: what answers; it is given the body in one piece.
        max_bytes: a larger one is refused, without being read where its size is said.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 413 or 408."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            said = Headers(scope=scope).get("content-length", "0")
            if said.isdecimal() and len(said) < 20:
                self._check(int(said))
            async with asyncio.timeout(_BODY_TIMEOUT_S):
                body = await self._read(receive)
        except TimeoutError:
            late = ApiError(408, f"the body did not come within {_BODY_TIMEOUT_S} seconds")
            await late.response()(scope, receive, send)
            return
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        except ClientLeftError:
            return
        is_given = False

        async def receive_again() -> Message:
            nonlocal is_given
            if is_given:
                return await receive()
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)

    async def _read(self, receive: Receive) -> bytes:
        pieces, num_bytes = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            pieces.append(message.get("body", b""))
            num_bytes += len(pieces[-1])
            self._check(num_bytes)
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise ApiError(
                413,
                f"the body has {num_bytes} bytes or more; at most {self._max_bytes} "
                "(--max_body_bytes)",
                code="body_too_large",
                headers={"Connection": "close"},
            )
