# SPDX-License-Identifier: Apache-2.0
"""What a request is called, from its client to the model's log: the header `X-Request-Id`."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, shown

HEADER = "X-Request-Id"
_MAX_CHARS = 128
# Visible ASCII: it is shown in logs, headers and ids of answers.
_ACCEPTED = re.compile(rf"[!-~]{{1,{_MAX_CHARS}}}")


class NameRequests:
    """ASGI middleware: takes the client's id or makes one, and returns it with every answer.

    Inside it is `request_id` of the request's state.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or answers 400."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist(HEADER)
        is_sound = len(given) <= 1 and all(map(_ACCEPTED.fullmatch, given))
        request_id = given[0] if given and is_sound else uuid.uuid4().hex

        async def naming_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        if not is_sound:
            error = ApiError(
                400,
                f"header {HEADER} = {', '.join(map(shown, given))}: must be one of 1 to "
                f"{_MAX_CHARS} visible ASCII characters; leave it out and one is made",
                code="invalid_request_id",
            )
            await error.response()(scope, receive, naming_send)
            return
        scope.setdefault("state", {})["request_id"] = request_id
        await self._app(scope, receive, naming_send)
