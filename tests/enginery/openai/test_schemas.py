# SPDX-License-Identifier: Apache-2.0
"""What a request may be: fields with their ranges, and parameters that are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from enginery.openai import unsupported
from enginery.openai.prompts import MAX_PROMPTS
from enginery.openai.schemas import ChatRequest, CompletionRequest
from tests.support.openai import LIMITS, Answered, Client, FakeModel

COMPLETION: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 2}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 2,
}
PATHS = {"/v1/completions": COMPLETION, "/v1/chat/completions": CHAT}
TABLES = {"/v1/completions": unsupported.COMPLETIONS, "/v1/chat/completions": unsupported.CHAT}
SCHEMAS: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
}
REFUSED = [(path, name) for path, table in TABLES.items() for name in table]
OFF = [
    (path, name, value)
    for path, table in TABLES.items()
    for name, (values, _) in table.items()
    for value in (None, *values)
]

# Field, value, and what the error says; of both endpoints.
BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("model", None, "model = None"),
    ("model", "other", "model = 'other': there is no such model; there is 'tiny'"),
    ("n", 0, "n = 0: Input should be greater than or equal to 1"),
    ("n", LIMITS.max_batch_size + 1, "n = 5: at most 4, the engine's max_batch_size"),
    ("n", True, "n = True: Input should be a valid integer"),
    ("temperature", 2.5, "temperature = 2.5: Input should be less than or equal to 2"),
    ("temperature", "hot", "temperature = 'hot': Input should be a valid number"),
    ("top_p", 0, "top_p = 0: Input should be greater than 0"),
    ("top_k", -2, "top_k = -2: Input should be greater than or equal to -1"),
    ("min_p", 1.5, "min_p = 1.5: Input should be less than or equal to 1"),
    ("repetition_penalty", 0, "repetition_penalty = 0: Input should be greater than 0"),
    ("presence_penalty", 3, "presence_penalty = 3: Input should be less than or equal to 2"),
    ("frequency_penalty", -3, "frequency_penalty = -3: Input should be greater"),
    ("seed", -1, "seed = -1: Input should be greater than or equal to 0"),
    ("seed", 2**64, "seed = 18446744073709551616: Input should be less than or equal"),
    ("max_tokens", -1, "max_tokens = -1: Input should be greater than or equal to"),
    ("max_tokens", 2.0, "max_tokens = 2.0: Input should be a valid integer"),
    ("max_tokens", 64, "the engine's max_seq_len is 64"),
    ("min_tokens", -1, "min_tokens = -1: Input should be greater"),
    ("ignore_eos", 1, "ignore_eos = 1: Input should be a valid boolean"),
    ("logit_bias", [1], "logit_bias: [1] is no object with token ids for names"),
    ("logit_bias", {"x": 1}, "logit_bias: 'x' is no token id"),
    ("logit_bias", {"05": 1}, "logit_bias: '05' is no token id"),
    ("logit_bias", {"5": 100.5}, "logit_bias: 5: 100.5 is no number in -100..100"),
    ("logit_bias", {"5": True}, "logit_bias: 5: True is no number"),
    ("logit_bias", {"5": 1, "320": 1}, "logit_bias: token 1 is 320; the vocabulary has 0..319"),
    ("stop", [""], "stop.0 = '': String should have at least 1 character"),
    ("stop", ["a"] * 17, "should have at most 16 items"),
    ("stop_token_ids", [-1], "stop_token_ids.0 = -1: Input should be greater"),
    ("stream_options", {"include_usage": True}, "stream_options: is for streams"),
    ("max_token", 3, "max_token: there is no such option; did you mean max_tokens?"),
    ("zzz", 3, "zzz: there is no such option"),
]  # fmt: skip

BAD_PROMPTS: list[tuple[Any, str]] = [
    ("", "prompt: is empty; a prompt has at least one character"),
    ([], "prompt: is empty; a prompt has at least one token"),
    (["a", ""], "prompt: prompt 1: is empty"),
    ([[1], []], "prompt: prompt 1: is empty"),
    (3, "prompt: 3 is neither a text nor a list of token ids"),
    (None, "prompt: None is neither"),
    ([1, "a"], "prompt: [1, 'a'] is neither"),
    ([1, True], "prompt: [1, True] is neither"),
    ([1.5], "prompt: prompt 0: 1.5 is neither"),
    ([[[1]]], "prompt: prompt 0: [[1]] is neither"),
    ({"a": 1}, "prompt: {'a': 1} is neither"),
    ("\ud800", "prompt: character 0 is a lone surrogate"),
    (["a"] * (MAX_PROMPTS + 1), "prompt: has 129 prompts; at most 128"),
    ([1, LIMITS.vocab_size], "prompt: token 1 is 320; the vocabulary has 0..319"),
    (["a", [-1]], "prompt 1: token 0 is -1; the vocabulary has 0..319"),
    ([5] * (LIMITS.max_input_len + 1), "prompt: has 49 tokens; at most 48"),
]

BAD_MESSAGES: list[tuple[Any, str]] = [
    ([], "messages = []: List should have at least 1 item"),
    ("hi", "messages = 'hi': Input should be a valid list"),
    (["hi"], "messages.0 = 'hi': Input should be"),
    ([{"content": "x"}], "messages.0.role: Field required"),
    ([{"role": "user", "content": 3}], "messages.0.content"),
    ([{"role": "user", "contents": "x"}], "messages: contents: there is no such option; did you"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}],
     "messages: image_url = {'url': 'u'}: not supported: the model reads text alone"),
    ([{"role": "user", "content": [{"type": "audio", "text": "u"}]}], "messages.0.content"),
    ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "tool_call_id = '1': not supported"),
    ([{"role": "user", "content": "x" * 100}], "messages: has 104 tokens; at most 48"),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(tmp_path_factory.mktemp("tokenizer"), FakeModel())


@pytest.fixture
def client(shared: Client) -> Client:
    shared.model.asked.clear()
    return shared


def message_of(answered: Answered) -> str:
    assert answered.status == (404 if answered.error["code"] == "model_not_found" else 400)
    assert answered.error["type"] == "invalid_request_error"
    return str(answered.error["message"])


@pytest.mark.parametrize("path", PATHS)
def test_plain_request_is_answered(path: str, client: Client) -> None:
    assert client.post(path, PATHS[path]).status == 200


@pytest.mark.parametrize("path", PATHS)
def test_null_is_the_default_of_whatever_may_be_left_out(path: str, client: Client) -> None:
    fields = SCHEMAS[path].model_fields
    nulls = {name: None for name, field in fields.items() if not field.is_required()}
    assert client.post(path, {**nulls, **PATHS[path]}).status == 200


@pytest.mark.parametrize(("path", "name"), REFUSED)
def test_unsupported_parameter_is_refused_by_name(path: str, name: str, client: Client) -> None:
    answered = client.post(path, {**PATHS[path], name: "some value of it"})
    reason = TABLES[path][name][1]
    assert message_of(answered) == f"{name} = 'some value of it': not supported: {reason}"
    assert answered.error["param"] == name
    assert not client.model.asked


@pytest.mark.parametrize(("path", "name", "value"), OFF)
def test_value_that_leaves_it_off_is_accepted(
    path: str, name: str, value: Any, client: Client
) -> None:
    assert client.post(path, {**PATHS[path], name: value}).status == 200


@pytest.mark.parametrize("path", TABLES)
def test_no_parameter_is_both_supported_and_refused(path: str) -> None:
    assert not set(SCHEMAS[path].model_fields) & set(TABLES[path])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("field", "value", "says"), BAD_FIELDS)
def test_bad_field(path: str, field: str, value: Any, says: str, client: Client) -> None:
    answered = client.post(path, {**PATHS[path], field: value})
    assert says in message_of(answered)
    assert not client.model.asked


@pytest.mark.parametrize(("prompt", "says"), BAD_PROMPTS)
def test_bad_prompt(prompt: Any, says: str, client: Client) -> None:
    answered = client.post("/v1/completions", {**COMPLETION, "prompt": prompt})
    assert says in message_of(answered)
    assert answered.error["param"] == "prompt"


@pytest.mark.parametrize(("messages", "says"), BAD_MESSAGES)
def test_bad_messages(messages: Any, says: str, client: Client) -> None:
    answered = client.post("/v1/chat/completions", {**CHAT, "messages": messages})
    assert says in message_of(answered)
    assert answered.error["param"] == "messages"


def test_all_problems_are_told_at_once(client: Client) -> None:
    answered = client.post("/v1/completions", {**COMPLETION, "top_p": 7, "temperature": -1})
    assert "top_p = 7" in message_of(answered)
    assert "temperature = -1" in message_of(answered)
    assert answered.error["param"] is None
    answered = client.post("/v1/completions", {**COMPLETION, "suffix": "a", "best_of": 3})
    assert "suffix = 'a'" in message_of(answered)
    assert "best_of = 3" in message_of(answered)


def test_limits_of_logprobs(client: Client) -> None:
    answered = client.post("/v1/completions", {**COMPLETION, "logprobs": 21})
    assert "logprobs = 21: Input should be less than or equal to 20" in message_of(answered)
    chat = {**CHAT, "logprobs": True, "top_logprobs": 21}
    says = message_of(client.post("/v1/chat/completions", chat))
    assert "top_logprobs = 21: Input should be less than or equal to 20" in says
    chat = {**CHAT, "top_logprobs": 0}
    says = message_of(client.post("/v1/chat/completions", chat))
    assert "top_logprobs: is for logprobs" in says


def test_chat_draws_at_least_one_token(client: Client) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answered = client.post("/v1/chat/completions", {**CHAT, name: 0})
        assert f"{name} = 0: Input should be greater than or equal to 1" in message_of(answered)


def test_two_names_of_one_limit(client: Client) -> None:
    chat = {**CHAT, "max_tokens": 2, "max_completion_tokens": 3}
    says = message_of(client.post("/v1/chat/completions", chat))
    assert "max_tokens = 2, max_completion_tokens = 3: two names of one thing" in says


def test_variables_of_the_template_that_are_ours(client: Client) -> None:
    chat = {**CHAT, "chat_template_kwargs": {"bos_token": "x"}}
    answered = client.post("/v1/chat/completions", chat)
    assert "bos_token is set by the server" in message_of(answered)


def test_long_value_is_cut_in_the_message(client: Client) -> None:
    answered = client.post("/v1/completions", {**COMPLETION, "temperature": "9" * 100_000})
    assert len(answered.body) < 1000
    answered = client.post("/v1/completions", {**COMPLETION, "tools": ["9" * 100_000]})
    assert len(answered.body) < 1000
    answered = client.post("/v1/completions", {**COMPLETION, "x" * 100_000: 1})
    assert len(answered.body) < 1000
