# SPDX-License-Identifier: Apache-2.0
"""The shortest way from a body to the function that answers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class BodyRoute(APIRoute):
    """A route whose function takes the body, as the model that it declares, and the request.

    FastAPI's own handler also looks for headers, cookies, forms and dependencies, which takes as
    long as all the rest of a request. What it documents, refuses and raises is the same.
    """

    def get_route_handler(self) -> Handler:
        """See `APIRoute`."""
        assert self.body_field is not None
        assert self.body_field.field_info.annotation is not None
        model: TypeAdapter[Any] = TypeAdapter(self.body_field.field_info.annotation)
        answer = self.endpoint

        async def handle(request: Request) -> Response:
            body = _read_json(request.headers.get("content-type", ""), await request.body())
            try:
                read = model.validate_python(body)
            except ValidationError as error:
                problems = [
                    {**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()
                ]
                raise RequestValidationError(problems, body=body) from error
            response: Response = await answer(read, request)
            return response

        return handle


def _read_json(content_type: str, raw: bytes) -> Any:
    """The body: bytes where it is said to be something else, None where there is none."""
    if not raw:
        return None
    if not content_type.lower().startswith("application/json"):
        return raw
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        problem = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([problem], body=error.doc) from error
    except (ValueError, RecursionError) as error:  # also no UTF-8, or a number too long
        raise HTTPException(400, f"the body cannot be read: {error}") from error
