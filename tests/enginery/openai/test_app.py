# SPDX-License-Identifier: Apache-2.0
"""Everything but tokens: health, metrics, keys, limits, the page, bodies that are no requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginery.openai.errors import ApiError, model_error, not_ready
from enginery.openai.guards import OPEN_PATHS
from tests.support.openai import Client, FakeModel
from tests.support.tokenizer import BOS_TOKEN_ID

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "xyz", "max_tokens": 3}
ORIGIN = "https://chat.example"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(tmp_path_factory.mktemp("tokenizer"), FakeModel(), max_body_bytes=1 << 20)


@pytest.fixture
def client(shared: Client) -> Client:
    shared.model.asked.clear()
    return shared


def test_health(client: Client) -> None:
    assert client.get("/health").json == {"status": "live"}
    assert client.get("/health/ready").json == {"status": "ready"}
    assert client.get("/health/generate").json == {"status": "generates", "tokens": [ord("a")]}
    assert client.model.asked[0].token_ids == [BOS_TOKEN_ID]


def test_health_of_a_model_that_is_down(tmp_path: Path) -> None:
    error = not_ready("connection refused")
    client = Client(tmp_path, FakeModel(is_up=False, error=error))
    assert client.get("/health").status == 200
    for path in ("/health/ready", "/health/generate"):
        answered = client.get(path)
        assert (answered.status, answered.error["code"]) == (503, "not_ready")
        assert answered.headers["retry-after"] == "1"
    assert client.post("/v1/completions", COMPLETION).status == 503


def test_models_and_version(client: Client) -> None:
    (card,) = client.get("/v1/models").json["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("tiny", "model", 64)
    assert card["has_chat_template"]
    assert client.get("/v1/models/tiny").json == card
    answered = client.get("/v1/models/other")
    assert (answered.status, answered.error["param"]) == (404, "model")
    assert client.get("/version").json["version"]


def test_metrics_count_and_parse(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel())
    client.post("/v1/completions", {**COMPLETION, "stream": True})
    client.post("/v1/completions", {**COMPLETION, "prompt": ["a", "b"]})
    client.post("/v1/completions", {**COMPLETION, "n": 0})
    client.get("/nothing/here")
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    families = list(text_string_to_metric_families(page.body.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    requests = "enginery_openai_requests_total"
    assert found[requests, "/v1/completions", "200"] == 2
    assert found[requests, "/v1/completions", "400"] == 1
    assert found[requests, "other", "404"] == 1
    assert found["enginery_openai_requests_running",] == 0
    assert found["enginery_openai_prompt_tokens_total",] == 4 + 2 + 2
    assert found["enginery_openai_generation_tokens_total",] == 3 + 6
    assert found["enginery_openai_time_to_first_token_seconds_count",] == 2
    assert found["enginery_openai_inter_token_latency_seconds_count",] <= 2
    assert found["enginery_openai_e2e_request_latency_seconds_count",] == 2
    assert found["nv_example",] == 3  # Triton server's own


def test_tokenize_and_back(client: Client) -> None:
    found = client.post("/tokenize", {"prompt": "xyz"}).json
    assert found == {"tokens": [BOS_TOKEN_ID, *b"xyz"], "count": 4, "max_model_len": 64}
    bare = client.post("/tokenize", {"prompt": "xyz", "add_special_tokens": False}).json
    assert bare["tokens"] == [*b"xyz"]
    chat = {"messages": [{"role": "user", "content": "Q"}], "add_generation_prompt": False}
    tokens = client.post("/tokenize", chat).json["tokens"]
    assert tokens == [BOS_TOKEN_ID, BOS_TOKEN_ID + 3, ord("Q"), BOS_TOKEN_ID + 5]
    back = client.post("/detokenize", {"tokens": tokens}).json
    assert back == {"prompt": "<|begin_of_text|><|user|>Q<|end|>"}
    answered = client.post("/detokenize", {"tokens": [320]})
    assert "tokens: token 0 is 320" in answered.error["message"]
    both = client.post("/tokenize", {**chat, "prompt": "x"})
    assert "prompt, messages: give one of them" in both.error["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_text_that_cannot_fit_is_refused_by_its_bytes(path: str, client: Client) -> None:
    text = "x" * 30_000
    body = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    answered = client.post(path, {"model": "tiny", **body})
    assert (answered.status, answered.error["code"]) == (400, "context_length_exceeded")
    assert answered.error["param"] == ("messages" if "chat" in path else "prompt")
    assert "bytes, so at least " in answered.error["message"]
    assert "at most 48 (max_input_len)" in answered.error["message"]


def test_without_a_tokenizer_prompts_are_token_ids(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel(), has_tokenizer=False)
    assert client.post("/v1/completions", {**COMPLETION, "prompt": [5]}).status == 200
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", chat)):
        answered = client.post(path, body)
        assert (answered.status, answered.error["code"]) == (400, "no_tokenizer")
    assert not client.get("/v1/models").json["data"][0]["has_chat_template"]


def test_api_key(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel(), api_keys=("first-key", "second-key"))
    paths = [route.path for route in client.app.routes if "GET" in (route.methods or ())]  # type: ignore[attr-defined]
    assert "/v1/models" in paths
    for path in paths:
        assert (client.get(path).status == 401) == (path not in OPEN_PATHS), path
    for wrong in (
        "first-key",
        "Bearer",
        "Bearer ",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "Bearer é",
    ):
        answered = client.get("/v1/models", {"Authorization": wrong})
        assert (answered.status, answered.error["code"]) == (401, "invalid_api_key")
        assert "first-key" not in answered.error["message"]
    for right in ("Bearer first-key", "Bearer second-key", "bearer second-key"):
        assert client.get("/v1/models", {"Authorization": right}).status == 200
    assert client.post("/v1/completions", COMPLETION).status == 401
    assert not client.model.asked


def test_pages_of_other_origins(tmp_path: Path, client: Client) -> None:
    asks = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    name = "access-control-allow-origin"
    assert name not in client.call("OPTIONS", "/v1/completions", b"", asks).headers
    assert name not in client.get("/v1/models", asks).headers
    # A form of another page needs no leave of the browser's: it has another type.
    form = client.post("/v1/completions", COMPLETION, {"content-type": "text/plain"})
    assert form.status == 415
    allowing = Client(tmp_path, FakeModel(), allow_origins=(ORIGIN,), api_keys=("k",))
    answered = allowing.call("OPTIONS", "/v1/completions", b"", asks)
    assert (answered.status, answered.headers[name]) == (200, ORIGIN)
    other = {**asks, "Origin": "https://evil.example"}
    assert name not in allowing.call("OPTIONS", "/v1/completions", b"", other).headers
    assert allowing.get("/v1/models", asks).headers[name] == ORIGIN  # a 401 that the page may read


def test_page(client: Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert "innerHTML" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "body"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, "body"),
        (b"null", 400, "body"),
        (b"3", 400, "body"),
        (b"\xff\xfe", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b'{"model": ' + b"9" * 5000 + b"}", 400, "body"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', 400, "temperature = nan"),
        (b'{"model": "tiny", "prompt": "x", "temperature": 1e999}', 400, "temperature = inf"),
        (b'{"model": "tiny", "prompt": "x", "seed": NaN, "\\ud800": 1}', 400, "no such option"),
        (b'{"model": "\\ud800", "prompt": "x"}', 404, "model"),
        (b'{"model": "tiny", "prompt": "x", "stop": "\\ud800"}', 400, "stop"),
        (b'{"model": "tiny", "prompt": "x", "user": "' + b"u" * (1 << 20), 413, "at most 1048576"),
    ],
)
def test_body_that_is_no_request(body: bytes, status: int, says: str, client: Client) -> None:
    answered = client.post("/v1/completions", body)
    assert answered.status == status
    assert says in answered.error["message"]
    chat = client.post("/v1/chat/completions", body)
    assert 400 <= chat.status < 500
    assert not client.model.asked


@pytest.mark.parametrize(
    ("content", "says"),
    [("\ud800", "messages"), (None, ""), ({"a": 1}, "messages.0.content")],
)
def test_odd_content_of_a_message(content: Any, says: str, client: Client) -> None:
    chat = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    answered = client.post("/v1/chat/completions", chat)
    if says:
        assert answered.status == 400
        assert says in answered.error["message"]
    else:
        assert answered.status == 200


def test_size_that_is_said_is_refused_unread(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel(), max_body_bytes=100)
    answered = client.post("/v1/completions", COMPLETION, {"content-length": "101"})
    assert (answered.status, answered.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nothing", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405),
    ("POST", "/metrics", 405),
])  # fmt: skip
def test_no_such_endpoint(method: str, path: str, status: int, client: Client) -> None:
    answered = client.call(method, path, b"")
    assert answered.status == status
    assert path in answered.error["message"]


def test_bug_is_an_error_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(tmp_path, FakeModel())

    async def broken(*_: object) -> list[int]:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(client.served, "encode", broken)
    with pytest.raises(ZeroDivisionError):  # told to the server's log, too
        client.post("/v1/completions", COMPLETION)


@pytest.mark.parametrize(
    ("message", "status", "param"),
    [
        ("request field max_tokens is 3000; accepted: 1..46", 400, "max_tokens"),
        ("request field max_tokens is 9: with 8 prompt tokens it needs", 400, "max_tokens"),
        ("request field num_return_sequences is 9; accepted", 400, "n"),
        ("request field stop_token_ids[0] is 999; accepted", 400, "stop_token_ids"),
        ("SamplingParams: top_p = 0.0: must be", 400, "top_p"),
        ("max_tokens = 0: must be an integer >= 1", 400, "max_tokens"),
        ("SamplingParams: 2 problems\n  - n = 0: must", 400, None),
        ("INVALID_ARGUMENT: no token can be drawn at position 3: every token is banned", 400, None),
        ("4 requests wait; accepted: max_queue_size 4; try again later", 429, None),
        ("the runtime was shut down and takes no requests", 503, None),
        ("Request for unknown model: 'enginery' is not found", 503, None),
        ("EXECUTOR_FAILED: out of luck", 500, None),
        ("ZeroDivisionError: division by zero", 500, None),
        ("", 500, None),
    ],
)
def test_errors_of_the_model(message: str, status: int, param: str | None) -> None:
    error: ApiError = model_error(message)
    assert (error.status, error.param) == (status, param)
    assert message in error.message
    assert ("Retry-After" in error.headers) == (status in (429, 503))


def test_openapi_schema_names_what_is_accepted(client: Client) -> None:
    schemas = client.get("/openapi.json").json["components"]["schemas"]
    for name in ("CompletionRequest", "ChatRequest"):
        assert schemas[name]["additionalProperties"] is False
    assert {"n", "stop", "seed", "stream"} <= set(schemas["CompletionRequest"]["properties"])
