# SPDX-License-Identifier: Apache-2.0
"""Answers, whole and streamed: shapes, framing, counts."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import pytest

from enginery.openai.answers import _finite
from enginery.openai.errors import ApiError
from enginery.runtime.tokenizer import Tokenizer
from tests.support.openai import DEADLINE_S, LIMITS, Answered, Client, FakeModel, body_of, run
from tests.support.tokenizer import BOS_TOKEN_ID

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "xyz", "max_tokens": 3}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 3,
}
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(tmp_path_factory.mktemp("tokenizer"), FakeModel())


@pytest.fixture
def client(shared: Client) -> Client:
    shared.model.asked.clear()
    return shared


def texts(events: list[Any], index: int = 0) -> str:
    """The text that a client puts together from a stream."""
    choices = [c for event in events for c in event["choices"] if c["index"] == index]
    return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)


def test_completion(client: Client) -> None:
    answered = client.post("/v1/completions", COMPLETION)
    found = answered.json
    assert found["id"].startswith("cmpl-")
    assert found["id"] == f"cmpl-{answered.headers['x-request-id']}"
    assert (found["object"], found["model"]) == ("text_completion", "tiny")
    assert found["choices"] == [
        {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}
    ]
    assert found["usage"] == {
        "prompt_tokens": 4,  # BOS comes first
        "completion_tokens": 3,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_completion_stream(client: Client) -> None:
    answered = client.post("/v1/completions", {**COMPLETION, **WITH_USAGE})
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answered.headers
    *events, last = answered.events
    assert texts(events) == "abc"
    name = answered.headers["x-request-id"]
    assert {event["id"] for event in [*events, last]} == {f"cmpl-{name}"}
    assert all(event["usage"] is None for event in events)
    assert [event["choices"][0]["finish_reason"] for event in events][-1] == "length"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 7


def test_stream_has_no_usage_unasked(client: Client) -> None:
    events = client.post("/v1/completions", {**COMPLETION, "stream": True}).events
    assert all("usage" not in event and event["choices"] for event in events)


def test_usage_in_every_chunk(client: Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**COMPLETION, "stream": True, "stream_options": options}
    events = client.post("/v1/completions", body).events
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[-1] == counts[-2] == 3
    assert {event["usage"]["prompt_tokens"] for event in events} == {4}
    del options["include_usage"]
    assert client.post("/v1/completions", body).status == 400


def test_chat(client: Client) -> None:
    found = client.post("/v1/chat/completions", CHAT).json
    assert found["id"].startswith("chatcmpl-")
    assert found["object"] == "chat.completion"
    assert found["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "abc", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]


def test_chat_stream_begins_with_the_role(client: Client) -> None:
    events = client.post("/v1/chat/completions", {**CHAT, "n": 2, "stream": True}).events
    for index in (0, 1):
        choices = [c for event in events for c in event["choices"] if c["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in choice["delta"] for choice in choices[1:])
        assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, "length")
        assert texts(events, index) == "abc"
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_chat_is_written_by_the_template(client: Client) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": parts},
        # What the official client hands back when an answer of before is put in as it came.
        {"role": "assistant", "content": "A", "refusal": None, "annotations": None,
         "audio": None, "function_call": None, "tool_calls": None},
        {"role": "user", "content": "Q", "name": "me"},
    ]  # fmt: skip
    client.post("/v1/chat/completions", {**CHAT, "messages": messages})
    begin, _, system, user, assistant, end = range(BOS_TOKEN_ID, BOS_TOKEN_ID + 6)
    assert client.model.asked[0].token_ids == [
        begin, system, ord("S"), end, user, *b"a\nb", end, assistant, ord("A"), end,
        user, ord("Q"), end, assistant,
    ]  # fmt: skip


def test_several_prompts_and_sequences(client: Client) -> None:
    body = {**COMPLETION, "prompt": ["x", [5, 6], "yz"], "n": 2, "echo": True}
    found = client.post("/v1/completions", body).json
    assert [choice["index"] for choice in found["choices"]] == [*range(6)]
    assert [choice["text"] for choice in found["choices"]] == [
        "xabc", "xabc", "\x05\x06abc", "\x05\x06abc", "yzabc", "yzabc"
    ]  # fmt: skip
    # Each prompt counts once, each sequence by itself.
    assert found["usage"]["prompt_tokens"] == 2 + 2 + 3
    assert found["usage"]["completion_tokens"] == 6 * 3
    events = client.post("/v1/completions", {**body, **WITH_USAGE}).events
    assert [texts(events, i) for i in range(6)] == [c["text"] for c in found["choices"]]
    assert events[-1]["usage"] == found["usage"]


def test_logprobs_of_a_completion(client: Client) -> None:
    body = {**COMPLETION, "logprobs": 0}
    expected = {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-0.5, -1.0, -1.5],
        "top_logprobs": None,
        "text_offset": [0, 1, 2],
    }
    assert client.post("/v1/completions", body).json["choices"][0]["logprobs"] == expected
    events = client.post("/v1/completions", {**body, "stream": True}).events
    streamed = [event["choices"][0]["logprobs"] for event in events]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for part in streamed for value in part[name]] == expected[name]


def test_likeliest_tokens_of_a_completion(client: Client) -> None:
    body = {**COMPLETION, "logprobs": 2}
    found = client.post("/v1/completions", body).json["choices"][0]["logprobs"]
    # The token that is there comes besides where it is not among them.
    assert found["top_logprobs"] == [
        {"z": 0.0, "y": -1.0, "a": -0.5},
        {"z": 0.0, "y": -1.0, "b": -1.0},
        {"z": 0.0, "y": -1.0, "c": -1.5},
    ]
    asked = client.model.asked[0].inputs
    assert (asked["logprobs"], asked["include_stop_token"]) == (2, True)
    assert "prompt_logprobs" not in asked


@pytest.mark.parametrize("stream", [False, True])
def test_echo_has_the_logprobs_of_the_prompt(stream: bool, client: Client) -> None:
    body = {
        **COMPLETION, "prompt": ["xyz", [BOS_TOKEN_ID, 0xC3, 0xA9, 65]], "max_tokens": 2, "n": 2,
        "echo": True, "logprobs": 1, "stream": stream,
    }  # fmt: skip
    answered = client.post("/v1/completions", body)
    begin = client.served.texts.text_of(BOS_TOKEN_ID)
    expected = {
        # BOS says nothing, and what comes after a prompt begins where its text ends.
        "xyz": ([begin, "x", "y", "z", "a", "b"], [0, 0, 1, 2, 3, 4]),
        "éA": ([begin, "bytes:\\xc3", "bytes:\\xa9", "A", "a", "b"], [0, 0, 0, 1, 2, 3]),
    }
    for index in range(4):
        text = [*expected][index // 2]
        if stream:
            choices = [c for e in answered.events for c in e["choices"] if c["index"] == index]
            parts = [choice["logprobs"] for choice in choices]
            assert choices[0]["text"] == text
            found = {name: [v for part in parts for v in part[name]] for name in parts[0]}
        else:
            choice = answered.json["choices"][index]
            assert choice["text"] == f"{text}ab"
            found = choice["logprobs"]
        tokens, offsets = expected[text]
        assert found["tokens"] == tokens
        assert found["text_offset"] == offsets
        assert found["token_logprobs"] == [None, -1.0, -1.5, -2.0, -0.5, -1.0]
        top = [{t: p, "z": 0.0} for t, p in zip(tokens, found["token_logprobs"], strict=True)]
        assert found["top_logprobs"] == [None, *top[1:]]
    assert [asked.inputs["prompt_logprobs"] for asked in client.model.asked] == [1, 1]


def test_prompt_alone_is_scored(client: Client) -> None:
    body = {**COMPLETION, "prompt": "xyz", "max_tokens": 0, "echo": True, "logprobs": 0}
    found = client.post("/v1/completions", body).json
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("xyz", "length")
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -1.5, -2.0]
    assert choice["logprobs"]["top_logprobs"] is None
    assert found["usage"]["completion_tokens"] == 0
    (event,) = client.post("/v1/completions", {**body, "stream": True}).events[:-1]
    assert event["choices"][0] == {**choice, "finish_reason": None}


def test_what_is_never_drawn_has_a_number() -> None:
    assert _finite(-math.inf) == -9999.0
    assert _finite(-1.5) == -1.5


def test_logprobs_of_a_chat(client: Client) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2}
    found = client.post("/v1/chat/completions", body).json["choices"][0]["logprobs"]
    content = found["content"]
    likeliest = [("z", 0.0), ("y", -1.0)]
    assert found["refusal"] is None
    assert content[1] == {
        "token": "b",
        "logprob": -1.0,
        "bytes": [98],
        "top_logprobs": [{"token": t, "logprob": p, "bytes": [ord(t)]} for t, p in likeliest],
    }
    assert "include_stop_token" not in client.model.asked[0].inputs
    plain = client.post("/v1/chat/completions", {**CHAT, "logprobs": True}).json
    assert plain["choices"][0]["logprobs"]["content"][1] == {**content[1], "top_logprobs": []}
    events = client.post("/v1/chat/completions", {**body, "stream": True}).events
    streamed = [event["choices"][0]["logprobs"] for event in events]
    assert [token for part in streamed if part for token in part["content"]] == content


def test_parameters_reach_the_model(client: Client) -> None:
    given = {
        "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "top_k": 7, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "min_tokens": 1, "ignore_eos": True,
        "stop_token_ids": [3], "seed": 2**64 - 1, "max_tokens": 3,
    }  # fmt: skip
    others = {"logit_bias": {"5": 1.5, "0": -100}}
    client.post("/v1/completions", {**COMPLETION, **given, **others, "stop": "end"})
    client.post("/v1/chat/completions", {**CHAT, **given, **others, "stop": ["end"]})
    for asked in client.model.asked:
        assert asked.inputs == {
            **given,
            "stop_words": ["end"],
            "logit_bias_ids": [5, 0],
            "logit_bias_values": [1.5, -100],
        }


def test_defaults(client: Client) -> None:
    body = {"model": "tiny", "prompt": [5] * 10}
    client.post("/v1/completions", body)
    client.post("/v1/completions", body)
    client.post("/v1/completions", {**body, "prompt": [5] * LIMITS.max_input_len})
    client.post("/v1/chat/completions", {**CHAT, "max_tokens": None, "top_k": -1})
    first, second, full, chat = client.model.asked
    # OpenAI's own 16, less where less fits; a chat goes on for as long as it can.
    assert (first.inputs["max_tokens"], full.inputs["max_tokens"]) == (16, 16)
    assert chat.inputs["max_tokens"] == LIMITS.max_seq_len - len(chat.token_ids)
    assert chat.inputs["top_k"] == 0
    # Without a seed each answer is another.
    assert first.inputs["seed"] != second.inputs["seed"]
    assert set(first.inputs) == {"max_tokens", "seed"}


def test_stream_that_fails_ends_with_the_error(tmp_path: Path) -> None:
    error = ApiError(500, "EXECUTOR_FAILED: it broke", code="internal_error")
    client = Client(tmp_path, FakeModel(error=error, error_at=2))
    *events, last = client.post("/v1/completions", {**COMPLETION, "stream": True}).events
    assert texts(events) == "ab"
    assert last == error.body
    assert client.model.num_open == 0


@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_first_token_has_a_status(stream: bool, tmp_path: Path) -> None:
    error = ApiError(429, "too many", code="queue_full", headers={"Retry-After": "1"})
    client = Client(tmp_path, FakeModel(error=error))
    prompts = ["a", "b", "c"]
    answered = client.post("/v1/completions", {**COMPLETION, "prompt": prompts, "stream": stream})
    assert (answered.status, answered.error["type"]) == (429, "rate_limit_error")
    assert answered.headers["retry-after"] == "1"
    assert client.model.num_open == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stalls_at", [0, 2])
def test_client_that_leaves_cancels_its_request(
    stream: bool, stalls_at: int, tmp_path: Path
) -> None:
    client = Client(tmp_path, FakeModel(stalls_at=stalls_at))
    body = {**COMPLETION, "prompt": ["a", "b"], "stream": stream}
    seen = stalls_at if stream else 0

    def leaves(sent: list[Any]) -> bool:
        # All that there will ever be was sent, or all requests wait.
        return len(client.model.asked) == 2 and body_of(sent).count(b'"text":') >= 2 * seen

    client.post_and_leave("/v1/completions", body, leaves)
    assert (client.model.num_open, client.model.num_cancelled) == (0, 2)
    page = client.get("/metrics").body.decode()
    assert 'requests_total{endpoint="/v1/completions",status="499"} 1.0' in page
    assert "enginery_openai_requests_running 0.0" in page


def test_client_that_leaves_before_the_first_event(tmp_path: Path) -> None:
    client = Client(tmp_path, FakeModel(stalls_at=1))
    sent = client.post_and_leave("/v1/completions", {**COMPLETION, "stream": True}, bool)
    assert sent.count(b"data: ") <= 1  # what was there, on a connection that nobody reads
    assert (client.model.num_open, client.model.num_cancelled) == (0, 1)


def test_long_prompt_holds_up_nobody(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a text is being encoded another request is answered from beginning to end."""
    is_answered = threading.Event()
    monkeypatch.setattr(
        Tokenizer, "encode", lambda *_, **__: [5] if is_answered.wait(DEADLINE_S) else []
    )

    async def both() -> tuple[Answered, Answered]:
        slow = asyncio.create_task(client.apost("/v1/completions", {**COMPLETION, "prompt": "x"}))
        await asyncio.sleep(0.05)  # it may begin before the other, which proves nothing otherwise
        quick = await client.apost("/v1/completions", {**COMPLETION, "prompt": [6]})
        assert not slow.done()
        is_answered.set()
        return await slow, quick

    slow, quick = run(both())
    assert (slow.status, quick.status) == (200, 200)
    assert [asked.token_ids for asked in client.model.asked] == [[6], [5]]
