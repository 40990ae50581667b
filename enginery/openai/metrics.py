# SPDX-License-Identifier: Apache-2.0
"""What the front end counts, in Prometheus' text format, with Triton server's own behind it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from .clients import call_and_note
from .generation import Piece

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
)  # fmt: skip
_LATENCIES = {
    "time_to_first_token": "From the arrival of a request here to its first token",
    "inter_token_latency": "Between tokens of a stream, as they are sent",
    "e2e_request_latency": "From the arrival of a request here to its last token",
}


class Metrics:
    """Counters and histograms of one front end."""

    def __init__(self) -> None:
        # A second series for every one, that nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "enginery_openai_requests",
            "Requests answered; status 499: the client left first",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self.running = Gauge(
            "enginery_openai_requests_running",
            "Requests for tokens that are being answered",
            registry=self._registry,
        )
        self.prompt_tokens = Counter(
            "enginery_openai_prompt_tokens", "Prompt tokens", registry=self._registry
        )
        self.generation_tokens = Counter(
            "enginery_openai_generation_tokens", "Tokens generated", registry=self._registry
        )
        self.ttft, self.inter_token, self.e2e = (
            Histogram(
                f"enginery_openai_{name}_seconds",
                text,
                buckets=_SECONDS,
                registry=self._registry,
            )
            for name, text in _LATENCIES.items()
        )

    def text(self, of_triton: str) -> bytes:
        """The page.

        Args:
            of_triton: Triton server's own page; its names are others than ours.
        """
        own: bytes = generate_latest(self._registry)
        return own + of_triton.encode()


class Stopwatch:
    """Times the tokens of one request.

    Args:
        metrics: where they are shown.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrival = time.monotonic()
        self._last: dict[int, float] = {}
        metrics.running.inc()

    def note(self, pieces: Sequence[tuple[int, Piece]]) -> None:
        """Takes in pieces of a stream as they come."""
        now = time.monotonic()
        for choice, piece in pieces:
            if not piece.token_ids:
                continue
            if not self._last:
                self._metrics.ttft.observe(now - self._arrival)
            num_tokens = len(piece.token_ids)
            if choice in self._last:
                # Tokens that came together are taken to have come evenly.
                gap = (now - self._last[choice]) / num_tokens
                for _ in range(num_tokens):
                    self._metrics.inter_token.observe(gap)
            self._last[choice] = now

    def end(self, usage: Mapping[str, int], first_token_ns: int, is_whole: bool) -> None:
        """The request has ended.

        Args:
            usage: `prompt_tokens` and `completion_tokens` of its sequences that have ended.
            first_token_ns: CLOCK_MONOTONIC, as the runtime tells it; 0: there was none.
            is_whole: all of it was answered.
        """
        self._metrics.running.dec()
        self._metrics.prompt_tokens.inc(usage["prompt_tokens"])
        self._metrics.generation_tokens.inc(usage["completion_tokens"])
        if is_whole:
            self._metrics.e2e.observe(time.monotonic() - self._arrival)
            if first_token_ns and not self._last:  # no stream: nothing was seen here
                self._metrics.ttft.observe(max(0.0, first_token_ns / 1e9 - self._arrival))


class CountRequests:
    """ASGI middleware that counts every request by endpoint and status.

    Args:
        app: what answers.
        metrics: where they are counted.
        endpoints: paths that are shown; all others are "other", or any client could add series.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def note(status: int) -> None:
            path = scope["path"]
            endpoint = path if path in self._endpoints else "other"
            self._metrics.requests.labels(endpoint, status).inc()

        await call_and_note(self._app, scope, receive, send, note)
