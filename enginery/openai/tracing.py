# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry traces: a span per request for tokens, with the runtime's phases as its children.

Names are vLLM's, and those of OpenTelemetry's conventions for generative AI. No span has a text.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

import enginery

from .answers import Answer
from .calls import Call
from .clients import call_and_note
from .errors import CLIENT_LEFT
from .generation import Usage

SPAN_NAME = "llm_request"

_OPERATIONS = {"/v1/completions": "text_completion", "/v1/chat/completions": "chat"}
_OPTIONS = ("max_tokens", "temperature", "top_p", "top_k")
_HTTP_PATH = "/v1/traces"
# What was not sent by then is lost: the end of the server waits for no collector.
_CLOSE_TIMEOUT_S = 3


class Tracing:
    """Makes spans, which a thread of its own hands to an exporter.

    A collector that is slow or gone costs spans and nothing else: what the queue does not hold is
    dropped.

    Args:
        exporter: where they go.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first.
        resource = Resource.create(
            {SERVICE_NAME: "enginery", **OTELResourceDetector().detect().attributes}
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("enginery.openai", enginery.__version__)
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to_collector(cls, endpoint: str) -> Self:
        """Sends them by OTLP.

        Args:
            endpoint: its URL; the scheme says whether by HTTP or by gRPC.
        """
        url = urlsplit(endpoint)
        if url.scheme in ("grpc", "grpcs"):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            return cls(OTLPSpanExporter(url.netloc, insecure=url.scheme == "grpc"))
        from opentelemetry.exporter.otlp.proto.http import trace_exporter

        path = url.path if url.path.strip("/") else _HTTP_PATH
        return cls(trace_exporter.OTLPSpanExporter(urlunsplit(url._replace(path=path))))

    def start(self, headers: Mapping[str, str]) -> RequestSpan:
        """The span of a request, in the trace that its client began where it did."""
        return RequestSpan(self._tracer, self._propagator.extract(headers))

    def flush(self) -> None:
        """Waits until the spans that have ended are handed over."""
        self._provider.force_flush()

    def close(self) -> None:
        """Hands over what is left, within a few seconds."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_TIMEOUT_S)


class RequestSpan:
    """The span of one request; times are CLOCK_MONOTONIC, as the runtime's.

    Args:
        tracer: makes spans.
        context: of the client.
    """

    def __init__(self, tracer: Tracer, context: Context) -> None:
        # One difference of the clocks for all spans of a request, so that they meet.
        self._to_unix = time.time_ns() - time.monotonic_ns()
        self._tracer = tracer
        self.arrival_ns = time.monotonic_ns()
        self._span = tracer.start_span(
            SPAN_NAME, context, SpanKind.SERVER, start_time=self.arrival_ns + self._to_unix
        )

    @property
    def is_kept(self) -> bool:
        """Whether anybody will see it; the client may not sample its trace."""
        return self._span.is_recording()

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Adds attributes."""
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        """Marks it as an error."""
        self._span.set_status(StatusCode.ERROR)
        self._span.set_attribute("error.type", reason)

    def add_phase(self, name: str, start_ns: int, end_ns: int) -> None:
        """A child; nothing where a time is 0."""
        if start_ns and end_ns:
            context = set_span_in_context(self._span)
            start_time = start_ns + self._to_unix
            child = self._tracer.start_span(name, context, start_time=start_time)
            child.end(end_ns + self._to_unix)

    def end(self, end_ns: int) -> None:
        """Ends it."""
        self._span.end(end_ns + self._to_unix)


class TraceRequests:
    """ASGI middleware that makes a span of every request for tokens.

    The application leaves `call` and `answer` in the request's state, as far as it comes.

    Args:
        app: what answers.
        tracing: makes the spans.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http" or scope["path"] not in _OPERATIONS:
            await self._app(scope, receive, send)
            return
        span = self._tracing.start(Headers(scope=scope))
        end = functools.partial(_end, span, scope)
        await call_and_note(self._app, scope, receive, send, end)


def _end(span: RequestSpan, scope: Scope, status: int) -> None:
    now_ns = time.monotonic_ns()
    state = scope["state"]
    if status >= CLIENT_LEFT:
        span.fail(str(status))
    if span.is_kept:
        span.describe(
            {
                "http.request.method": scope["method"],
                "http.route": scope["path"],
                "http.response.status_code": status,
                "gen_ai.operation.name": _OPERATIONS[scope["path"]],
                "gen_ai.request.id": state["request_id"],
            }
        )
        if "answer" in state:
            _describe(span, state["call"], state["answer"], now_ns)
    span.end(now_ns)


def _describe(span: RequestSpan, call: Call, answer: Answer, now_ns: int) -> None:
    usages = answer.usages
    whole = Phases.of(usages.values())
    span.describe(_attributes(call, answer))
    span.describe(whole.latencies(now_ns))
    span.add_phase("encode", span.arrival_ns, whole.arrival_ns)
    for index in range(len(call.generations)):
        choices = range(index * call.num_sequences, (index + 1) * call.num_sequences)
        phases = Phases.of([usages[choice] for choice in choices if choice in usages])
        for name, (start_ns, end_ns) in phases.spans().items():
            span.add_phase(name, start_ns, end_ns)
    span.add_phase("send", whole.last_token_ns, now_ns)


@dataclass(frozen=True)
class Phases:
    """When sequences came to each point, all CLOCK_MONOTONIC; 0: they did not.

    Attributes:
        arrival_ns: at the runtime.
        first_scheduled_ns: in a step.
        first_token_ns: drawn, of the first.
        last_token_ns: drawn, of the last.
    """

    arrival_ns: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0

    @classmethod
    def of(cls, usages: Collection[Usage]) -> Self:
        """Those of sequences that have ended, taken together."""

        def first(name: str) -> int:
            return min(filter(None, (getattr(usage, name) for usage in usages)), default=0)

        return cls(
            first("arrival_ns"),
            first("first_scheduled_ns"),
            first("first_token_ns"),
            max((usage.last_token_ns for usage in usages), default=0),
        )

    def spans(self) -> dict[str, tuple[int, int]]:
        """Where each phase begins and ends."""
        return {
            "queue": (self.arrival_ns, self.first_scheduled_ns),
            "prefill": (self.first_scheduled_ns, self.first_token_ns),
            "decode": (self.first_token_ns, self.last_token_ns),
        }

    def latencies(self, now_ns: int) -> dict[str, float]:
        """Seconds, in vLLM's names; those that are known."""
        spans = self.spans()
        of_names = {
            "time_in_queue": spans["queue"],
            "time_in_model_prefill": spans["prefill"],
            "time_in_model_decode": spans["decode"],
            "time_in_model_inference": (self.first_scheduled_ns, self.last_token_ns),
            "time_to_first_token": (self.arrival_ns, self.first_token_ns),
            "e2e": (self.arrival_ns, now_ns),
        }
        return {
            f"gen_ai.latency.{name}": (end_ns - start_ns) / 1e9
            for name, (start_ns, end_ns) in of_names.items()
            if start_ns and end_ns
        }


def _attributes(call: Call, answer: Answer) -> dict[str, Any]:
    """What was asked and what came of it, in counts."""
    usage = answer.usage()
    inputs = call.generations[0].inputs
    options = {f"gen_ai.request.{name}": inputs[name] for name in _OPTIONS if name in inputs}
    return {
        **options,
        "gen_ai.request.n": call.num_sequences,
        "gen_ai.request.stream": call.streams,
        "gen_ai.response.id": answer.id,
        "gen_ai.response.model": answer.model_name,
        "gen_ai.response.finish_reasons": answer.finish_reasons,
        "gen_ai.usage.prompt_tokens": usage["prompt_tokens"],
        "gen_ai.usage.completion_tokens": usage["completion_tokens"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": usage["completion_tokens"],
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.usage.num_sequences": len(answer.usages),
    }
