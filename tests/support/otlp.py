# SPDX-License-Identifier: Apache-2.0
"""Collectors of traces: they take OTLP and keep the spans."""

from __future__ import annotations

import contextlib
import http.server
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

Spans = list[tuple[dict[str, Any], Any]]
"""OTLP's messages, with the attributes of the resource of each."""


@dataclass
class Collector:
    """What came over HTTP."""

    url: str
    paths: list[str] = field(default_factory=list)
    spans: Spans = field(default_factory=list)


def spans_of(request: ExportTraceServiceRequest) -> Spans:
    return [
        (attributes(of_resource.resource.attributes), span)
        for of_resource in request.resource_spans
        for scope in of_resource.scope_spans
        for span in scope.spans
    ]


def attributes(pairs: Any) -> dict[str, Any]:
    """OTLP's attributes as Python values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def collector() -> Iterator[Collector]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                raw = zlib.decompress(raw, 31)
            found.paths.append(self.path)
            found.spans += spans_of(ExportTraceServiceRequest.FromString(raw))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield found
        server.shutdown()


@contextlib.contextmanager
def grpc_collector() -> Iterator[tuple[str, Spans]]:
    spans: Spans = []

    class Service(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> ExportTraceServiceResponse:
            spans.extend(spans_of(request))
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}", spans
    server.stop(None)
