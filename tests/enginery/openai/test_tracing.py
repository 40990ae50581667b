# SPDX-License-Identifier: Apache-2.0
"""Spans of requests: what is in them, whose children they are, and collectors that fail."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from enginery.openai import tracing as tracing_module
from enginery.openai.errors import ApiError
from enginery.openai.generation import Generation, Piece
from enginery.openai.tracing import SPAN_NAME, Tracing
from tests.support.openai import Client, FakeModel
from tests.support.otlp import collector, grpc_collector

ASKED: dict[str, Any] = {"model": "tiny", "prompt": "secret", "max_tokens": 5, "temperature": 0.5}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
MS = 1_000_000


class TimedModel(FakeModel):
    """Each prompt waits 1 ms, is read for 2 ms and goes on for 4 ms, all before it is answered."""

    async def generate(self, generation: Generation) -> AsyncIterator[Piece]:
        end = time.monotonic_ns()
        async for piece in super().generate(generation):
            if piece.usage is not None:
                usage = replace(
                    piece.usage,
                    arrival_ns=end - 7 * MS,
                    first_scheduled_ns=end - 6 * MS,
                    first_token_ns=end - 4 * MS,
                    last_token_ns=end,
                )
                piece = replace(piece, usage=usage)
            yield piece


class Traced:
    """A client of an application whose spans are kept."""

    def __init__(self, folder: Path, model: FakeModel, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self._tracing = Tracing(self._exporter)
        self.client = Client(folder, model, tracing=self._tracing, **options)

    def spans(self) -> list[ReadableSpan]:
        self._tracing.flush()
        return list(self._exporter.get_finished_spans())

    def root(self) -> ReadableSpan:
        (found,) = [span for span in self.spans() if span.name == SPAN_NAME]
        return found


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    return Traced(tmp_path, TimedModel())


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.mark.parametrize("stream", [False, True])
def test_phases_are_children_in_order(traced: Traced, stream: bool) -> None:
    assert traced.client.post("/v1/completions", {**ASKED, "stream": stream}).status == 200
    root = traced.root()
    children = [span for span in traced.spans() if span is not root]
    assert [span.name for span in children] == ["encode", "queue", "prefill", "decode", "send"]
    for span in children:
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert span.context.trace_id == root.context.trace_id
    ends = [root.start_time, *(span.end_time for span in children)]
    assert [span.start_time for span in children] == ends[:-1]
    assert ends[-1] == root.end_time
    assert [seconds(span) for span in children[1:4]] == pytest.approx([0.001, 0.002, 0.004])


def test_attributes(traced: Traced) -> None:
    options = {"top_p": 0.75, "n": 2, "stream": True}
    answered = traced.client.post("/v1/completions", {**ASKED, **options}, {"X-Request-Id": "mine"})
    root = traced.root()
    assert root.kind is SpanKind.SERVER
    assert root.status.status_code is StatusCode.UNSET
    found = dict(root.attributes or {})
    latencies = {
        name.removeprefix("gen_ai.latency."): found.pop(name)
        for name in [*found]
        if name.startswith("gen_ai.latency.")
    }
    assert found == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.id": "mine",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.75,
        "gen_ai.request.n": 2,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": answered.events[0]["id"],
        "gen_ai.response.model": "tiny",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.prompt_tokens": 5,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.completion_tokens": 10,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "gen_ai.usage.num_sequences": 2,
    }
    e2e = latencies.pop("e2e")
    assert isinstance(e2e, float)
    assert e2e >= 0.007
    assert latencies == pytest.approx(
        {
            "time_in_queue": 0.001,
            "time_in_model_prefill": 0.002,
            "time_in_model_decode": 0.004,
            "time_in_model_inference": 0.006,
            "time_to_first_token": 0.003,
        }
    )
    everything = "".join(span.to_json() for span in traced.spans())
    assert "secret" not in everything
    assert "abcde" not in everything


def test_each_prompt_has_its_phases(traced: Traced) -> None:
    traced.client.post("/v1/completions", {**ASKED, "prompt": ["a", "b", "c"]})
    names = [span.name for span in traced.spans()]
    assert [names.count(name) for name in ("queue", "prefill", "decode", "send")] == [3, 3, 3, 1]


def test_chat(traced: Traced) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Q"}], "max_tokens": 2}
    traced.client.post("/v1/chat/completions", chat)
    assert (traced.root().attributes or {})["gen_ai.operation.name"] == "chat"


def test_the_trace_of_the_client_goes_on(traced: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "a=b"}
    traced.client.post("/v1/completions", ASKED, headers)
    root = traced.root()
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT_ID
    assert root.context.trace_state.get("a") == "b"


def test_what_the_client_does_not_sample_is_not_sent(traced: Traced) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
    assert traced.client.post("/v1/completions", ASKED, headers).status == 200
    assert traced.spans() == []


@pytest.mark.parametrize("given", ["", "00", "x" * 10_000, f"00-{'0' * 32}-{PARENT_ID}-01", "\xff"])
def test_traceparent_that_is_none_begins_a_trace(given: str, traced: Traced) -> None:
    headers = {"traceparent": given, "tracestate": "=,=" * 1000}
    assert traced.client.post("/v1/completions", ASKED, headers).status == 200
    assert traced.root().parent is None


def test_what_is_refused(traced: Traced) -> None:
    assert traced.client.post("/v1/completions", {**ASKED, "max_tokens": -1}).status == 400
    (span,) = traced.spans()
    assert (span.attributes or {})["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.UNSET  # the fault is the client's


def test_failures_and_clients_that_leave(tmp_path: Path) -> None:
    failing = Traced(tmp_path, TimedModel(error=ApiError(503, "down")))
    assert failing.client.post("/v1/completions", ASKED).status == 503
    stalling = Traced(tmp_path, TimedModel(stalls_at=2))
    stream = {**ASKED, "stream": True}
    stalling.client.post_and_leave("/v1/completions", stream, lambda sent: len(sent) > 1)
    for traced, status in ((failing, 503), (stalling, 499)):
        (span,) = [span for span in traced.spans() if span.name == SPAN_NAME]
        attributes = span.attributes or {}
        assert attributes["http.response.status_code"] == status
        assert attributes["error.type"] == str(status)
        assert span.status.status_code is StatusCode.ERROR


def test_only_requests_for_tokens_and_only_with_a_key(tmp_path: Path) -> None:
    traced = Traced(tmp_path, TimedModel(), api_keys=("key",))
    for path in ("/health", "/metrics", "/nowhere"):
        traced.client.get(path, {"authorization": "Bearer key"})
    traced.client.post("/v1/completions", ASKED)
    assert traced.spans() == []


class BrokenExporter(SpanExporter):
    def export(self, _: Any) -> SpanExportResult:
        raise RuntimeError("broken")


def test_a_broken_exporter_hurts_nobody(tmp_path: Path) -> None:
    tracing = Tracing(BrokenExporter())
    client = Client(tmp_path, TimedModel(), tracing=tracing)
    for _ in range(3):
        assert client.post("/v1/completions", ASKED).status == 200
        tracing.flush()
    tracing.close()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setattr(tracing_module, "_CLOSE_TIMEOUT_S", 0.2)
    yield


@pytest.mark.parametrize(("path", "expected"), [("", "/v1/traces"), ("/own/v1", "/own/v1")])
def test_collector_over_http(path: str, expected: str, tmp_path: Path) -> None:
    with collector() as found:
        tracing = Tracing.to_collector(found.url + path)
        client = Client(tmp_path, TimedModel(), tracing=tracing)
        assert client.post("/v1/completions", ASKED).status == 200
        tracing.close()
        assert set(found.paths) == {expected}
        assert SPAN_NAME in {span.name for _, span in found.spans}
        assert {about["service.name"] for about, _ in found.spans} == {"enginery"}


def test_collector_over_grpc(tmp_path: Path) -> None:
    with grpc_collector() as (url, spans):
        tracing = Tracing.to_collector(url)
        client = Client(tmp_path, TimedModel(), tracing=tracing)
        assert client.post("/v1/completions", ASKED).status == 200
        tracing.close()
        assert SPAN_NAME in {span.name for _, span in spans}


def test_service_name_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    traced = Traced(tmp_path, TimedModel())
    traced.client.post("/v1/completions", ASKED)
    assert traced.root().resource.attributes["service.name"] == "chat"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "grpc://127.0.0.1:1"])
def test_a_collector_that_is_not_there_holds_up_nothing(
    url: str, tmp_path: Path, no_waiting: None
) -> None:
    tracing = Tracing.to_collector(url)
    client = Client(tmp_path, TimedModel(), tracing=tracing)
    for _ in range(3):
        assert client.post("/v1/completions", ASKED).status == 200
        time.sleep(0.05)  # the exporter tries meanwhile
    tracing.close()  # returns
