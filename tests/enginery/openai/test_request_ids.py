# SPDX-License-Identifier: Apache-2.0
"""One id goes from the client's header to the model, and comes back with every answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.openai import MODEL, Client, FakeModel

PROMPT = {"model": MODEL, "prompt": [1, 2], "max_tokens": 2}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path, FakeModel(), api_keys=())


@pytest.mark.parametrize(
    ("path", "body", "prefix"),
    [("/v1/completions", PROMPT, "cmpl"), ("/v1/chat/completions", CHAT, "chatcmpl")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_id_of_the_client(
    path: str, body: dict[str, Any], prefix: str, stream: bool, client: Client
) -> None:
    answered = client.post(path, {**body, "stream": stream}, {"X-Request-Id": "trace-7/a"})
    assert answered.headers["x-request-id"] == "trace-7/a"
    answers = answered.events if stream else [answered.json]
    assert {answer["id"] for answer in answers} == {f"{prefix}-trace-7/a"}
    assert client.model.asked[-1].request_id == "trace-7/a"


def test_all_prompts_of_a_request_have_its_id(client: Client) -> None:
    client.post("/v1/completions", {**PROMPT, "prompt": [[1], [2]]}, {"X-Request-Id": "both"})
    assert [asked.request_id for asked in client.model.asked] == ["both", "both"]


def test_id_that_is_made(client: Client) -> None:
    names = {client.post("/v1/completions", PROMPT).headers["x-request-id"] for _ in range(3)}
    assert {asked.request_id for asked in client.model.asked} == names
    assert len(names) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


@pytest.mark.parametrize("name", ["", "a b", "a" * 129, "caf\xe9", "a\tb"])
def test_id_that_is_not_accepted(name: str, client: Client) -> None:
    answered = client.post("/v1/completions", PROMPT, {"X-Request-Id": name})
    assert answered.status == 400
    assert "header X-Request-Id = " in answered.error["message"]
    assert answered.error["code"] == "invalid_request_id"
    assert re.fullmatch("[0-9a-f]{32}", answered.headers["x-request-id"])
    assert not client.model.asked


def test_refusals_have_it(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel(), api_keys=("key",), max_body_bytes=100)
    named = {"X-Request-Id": "me"}
    key = {"Authorization": "Bearer key"}
    answers = [
        client.get("/health", named),
        client.post("/v1/completions", PROMPT, named),
        client.post("/v1/completions", b" " * 101, {**named, **key}),
        client.post("/v1/completions", {**PROMPT, "model": "other"}, {**named, **key}),
        client.get("/nothing", {**named, **key}),
    ]
    assert [answered.status for answered in answers] == [200, 401, 413, 404, 404]
    assert {answered.headers["x-request-id"] for answered in answers} == {"me"}
