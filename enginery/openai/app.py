# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: routes, and what becomes of errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import enginery

from . import request_ids
from .answers import ChatAnswer, CompletionAnswer
from .calls import chat_call, completion_call, tokens_of_chat
from .clients import ClientLeftError
from .errors import CLIENT_LEFT, ApiError, invalid_fields, not_ready, shown
from .generate import answer_call
from .generation import Generation, Model, Pieces
from .guards import CheckApiKey, LimitBody
from .metrics import CONTENT_TYPE, CountRequests, Metrics
from .options import FrontEndOptions
from .routes import BodyRoute
from .schemas import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from .served import Served

if TYPE_CHECKING:
    from .tracing import Tracing

_LOG = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 30
_PAGE = Path(__file__).with_name("page.html")
_PAGE_HEADERS = {
    # What the model writes is shown as text; this holds even if that should fail.
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(
    options: FrontEndOptions, model: Model, served: Served, tracing: Tracing | None = None
) -> FastAPI:
    """The application; what it is given is closed when it ends."""
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        served.close()
        await model.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    # The pages that FastAPI makes of the schema load scripts from elsewhere.
    app = FastAPI(
        title="Enginery",
        version=enginery.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_error_handlers(app)
    _add_generation(app, model, served, metrics)
    _add_health(app, model, served)
    _add_information(app, model, served, metrics)
    # The last one added is asked first.
    app.add_middleware(LimitBody, max_bytes=options.max_body_bytes)
    if tracing is not None:
        from .tracing import TraceRequests  # which needs an extra

        app.add_middleware(TraceRequests, tracing=tracing)
    app.add_middleware(CheckApiKey, keys=options.api_keys)
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.allow_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", request_ids.HEADER],
            expose_headers=[request_ids.HEADER],
        )
    endpoints = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.add_middleware(CountRequests, metrics=metrics, endpoints=endpoints)
    app.add_middleware(request_ids.NameRequests)
    return app


def _add_generation(app: FastAPI, model: Model, served: Served, metrics: Metrics) -> None:
    async def completions(body: CompletionRequest, request: Request) -> Response:
        served.check_name(body.model)
        call = await completion_call(body, served, request.state.request_id)
        answer = CompletionAnswer(call, served, request.state.request_id)
        request.state.call, request.state.answer = call, answer
        return await answer_call(call, answer, model, metrics, request)

    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        served.check_name(body.model)
        call = await chat_call(body, served, request.state.request_id)
        answer = ChatAnswer(call, served, request.state.request_id)
        request.state.call, request.state.answer = call, answer
        return await answer_call(call, answer, model, metrics, request)

    for path, answer in (
        ("/v1/completions", completions),
        ("/v1/chat/completions", chat_completions),
    ):
        app.router.add_api_route(
            path, answer, methods=["POST"], response_model=None, route_class_override=BodyRoute
        )


def _add_health(app: FastAPI, model: Model, served: Served) -> None:
    @app.get("/health")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        if not await model.is_ready():
            raise not_ready("Triton server says so or does not answer")
        return {"status": "ready"}

    @app.get("/health/generate")
    async def generate(request: Request) -> dict[str, Any]:
        inputs = {"max_tokens": 1, "ignore_eos": True}
        probe = Generation([served.probe], inputs=inputs, request_id=request.state.request_id)
        token_ids: list[int] = []
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S), Pieces(model, [probe]) as pieces:
                while taken := await pieces.take():
                    token_ids += [t for _, piece in taken for t in piece.token_ids]
        except TimeoutError:
            raise not_ready(f"no token came within {_PROBE_TIMEOUT_S} seconds") from None
        return {"status": "generates", "tokens": token_ids}


def _add_information(app: FastAPI, model: Model, served: Served, metrics: Metrics) -> None:
    page = _PAGE.read_text(encoding="utf-8")

    def card() -> dict[str, Any]:
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "enginery",
            "max_model_len": served.limits.max_seq_len,
            "has_chat_template": served.has_chat,
        }

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, 200, _PAGE_HEADERS, "text/html; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card()]}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        served.check_name(name)
        return card()

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": enginery.__version__}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        text = metrics.text(await model.metrics())
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:
        served.check_name(body.model)
        if body.messages is not None:
            variables = body.chat_template_kwargs
            opens_turn = body.add_generation_prompt
            tokens = await tokens_of_chat(body.messages, variables, opens_turn, served)
        else:
            tokens = await served.encode(body.prompt or "", body.add_special_tokens)
        return {
            "tokens": tokens,
            "count": len(tokens),
            "max_model_len": served.limits.max_seq_len,
        }

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, str]:
        served.check_name(body.model)
        served.check_token_ids("tokens", "tokens", body.tokens)
        return {"prompt": await served.decode(body.tokens)}


def _add_error_handlers(app: FastAPI) -> None:
    async def on_api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if not request.headers.get("content-type", "").startswith("application/json"):
            # Also what keeps pages of other sites from calling with a form.
            return ApiError(415, "send Content-Type: application/json").response()
        return invalid_fields(error.errors()).response()

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"{request.method} {shown(request.url.path)}: {error.detail}"
        return ApiError(error.status_code, message, headers=error.headers).response()

    async def on_client_left(_: Request, __: Exception) -> Response:
        return JSONResponse(None, CLIENT_LEFT)

    async def on_bug(request: Request, error: Exception) -> Response:
        message = f"{type(error).__name__}: {error}"
        # This one is not answered through the middleware that names requests.
        headers = {request_ids.HEADER: request.state.request_id}
        return ApiError(500, message, code="internal_error", headers=headers).response()

    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientLeftError, on_client_left)
    app.add_exception_handler(Exception, on_bug)
