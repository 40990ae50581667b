# SPDX-License-Identifier: Apache-2.0
"""Errors as OpenAI's clients read them: a status and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

RETRY_AFTER_S = 1
# More of a value or a list than a person reads; a body of megabytes must not come back.
_MAX_VALUE_CHARS = 80
_MAX_PROBLEMS = 8

CLIENT_LEFT = 499
"""Status of a request whose client did not wait; nobody sees it but the metrics."""

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
# How the runtime begins what it says of a request that is at fault: a field and its value.
_FIELD = re.compile(
    r"(?:INVALID_ARGUMENT: )?(?:request field |SamplingParams: )?([a-z_]+)(?:\[\d+\])? (?:=|is) "
)
_AT_FAULT = ("request field ", "SamplingParams: ", "INVALID_ARGUMENT: ", "NOT_SUPPORTED: ")
_NOT_READY = ("the runtime was shut down", "Request for unknown model", "the request was ended")
# As the runtime names its fields and as OpenAI does.
_FIELDS = {"num_return_sequences": "n", "num_prompt_tokens": "prompt", "prompt_token_ids": "prompt"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: of HTTP.
        message: names the field, the value, what is accepted and the fix.
        param: the field of the request; None: no single one.
        code: for programs, e.g. "model_not_found".
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """What is answered, also as an event of a stream that has begun."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        """The whole response."""
        # ASCII: a value that is shown may have lone surrogates, which UTF-8 cannot hold.
        text = json.dumps(self.body)
        return Response(text, self.status, self.headers, "application/json")


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def invalid_fields(problems: Sequence[Mapping[str, Any]]) -> ApiError:
    """The error for what pydantic found, all of it at once.

    Args:
        problems: as `ValidationError.errors()` gives them.
    """
    lines: list[str] = []
    params: list[str | None] = []
    if problems[0]["type"] == "json_invalid":
        reason = problems[0].get("ctx", {}).get("error", "it cannot be read")
        at = problems[0]["loc"][-1]
        return ApiError(400, f"the body is not JSON: {reason} (character {at})", code="not_json")
    for problem in problems[:_MAX_PROBLEMS]:
        path = [part for part in problem["loc"] if part != "body"]
        name = ".".join(str(part) for part in path) or "body"
        # The text of our own checks says what the value was.
        is_ours = problem["type"] in ("value_error", "missing")
        reason = str(problem["msg"]).removeprefix("Value error, ")
        lines.append(
            f"{name}: {reason}" if is_ours else f"{name} = {shown(problem['input'])}: {reason}"
        )
        params.append(str(path[0]) if path else None)
    if len(problems) > _MAX_PROBLEMS:
        lines.append(f"and {len(problems) - _MAX_PROBLEMS} more")
    param = params[0] if len(set(params)) == 1 else None
    return ApiError(400, "; ".join(lines), param=param, code="invalid_value")


def model_error(message: str) -> ApiError:
    """The error for what the model answered; in a stream that is a text and no status.

    Triton server has a header that asks for a status. With it, streams that end with an error
    crash the server now and then.

    Args:
        message: the runtime's, or Triton server's where it does not reach the model.
    """
    if "max_queue_size" in message:
        return ApiError(429, message, code="queue_full", headers=_retry())
    if any(text in message for text in _NOT_READY):
        return not_ready(message)
    found = _FIELD.match(message)
    if found is not None or message.startswith(_AT_FAULT):
        name = found[1] if found else None
        return ApiError(400, message, param=_FIELDS.get(name, name) if name else None)
    return ApiError(500, message, code="internal_error")


def not_ready(reason: str) -> ApiError:
    """The error while the model takes no requests.

    Args:
        reason: why, in a few words.
    """
    message = f"the model is not ready: {reason}; try again"
    return ApiError(503, message, code="not_ready", headers=_retry())


def _retry() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_S)}
