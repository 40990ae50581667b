# SPDX-License-Identifier: Apache-2.0
"""The real tritonserver answers as the runtime does in this process, over gRPC and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.runtime.llm import LLM
from enginery.runtime.outputs import CompletionOutput, Logprob
from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.server import TritonServer
from tests.support.metrics_page import assert_counts_what_is_served
from tests.support.triton import (
    GrpcStream,
    Response,
    assert_timeouts_end_a_request,
    build_lasting_engine,
    grpc_stream,
    http_generate,
    http_stream,
    serving,
)

PROMPT = "In the beginning was the café"
GREEDY = {"temperature": 0.0}
DRAWN: dict[str, Any] = {"temperature": 0.9, "seed": 20260714}

# Inputs of the model -> the same as arguments of SamplingParams.
PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({"seed": 3}, {"seed": 3}),
    "greedy": (GREEDY, GREEDY),
    "seed": ({"seed": 2**64 - 1}, {"seed": 2**64 - 1}),
    "top_k": ({**DRAWN, "top_k": 3}, {**DRAWN, "top_k": 3}),
    "top_p": ({**DRAWN, "top_p": 0.5}, {**DRAWN, "top_p": 0.5}),
    "min_p": ({**DRAWN, "min_p": 0.25}, {**DRAWN, "min_p": 0.25}),
    "repetition_penalty": (
        {**GREEDY, "repetition_penalty": 1.5},
        {**GREEDY, "repetition_penalty": 1.5},
    ),
    "presence_penalty": ({**GREEDY, "presence_penalty": 2.5}, {**GREEDY, "presence_penalty": 2.5}),
    "frequency_penalty": (
        {**GREEDY, "frequency_penalty": 1.25},
        {**GREEDY, "frequency_penalty": 1.25},
    ),
    "stop_token_ids": (
        {**DRAWN, "stop_token_ids": [*range(0, 320, 7)]},
        {**DRAWN, "stop_token_ids": [*range(0, 320, 7)]},
    ),
    "min_tokens": (
        {**DRAWN, "stop_token_ids": [*range(0, 320, 2)], "min_tokens": 11},
        {**DRAWN, "stop_token_ids": [*range(0, 320, 2)], "min_tokens": 11},
    ),
    "stop_words": ({**DRAWN, "stop_words": ["e", "a"]}, {**DRAWN, "stop": ["e", "a"]}),
    "bad_words": (
        {**GREEDY, "bad_words": ["a", "b", "c"]},
        {**GREEDY, "bad": ["a", "b", "c"]},
    ),
    "end_id": ({**DRAWN, "end_id": 17}, {**DRAWN, "end_id": 17}),
    "ignore_eos": ({**DRAWN, "ignore_eos": True}, {**DRAWN, "ignore_eos": True}),
    "request_output_len": ({"request_output_len": 5, "seed": 1}, {"max_tokens": 5, "seed": 1}),
    "sampling_parameters": (
        {"sampling_parameters": '{"temperature": 0.9, "top_k": 4, "seed": 5, "stop": ["q"]}'},
        {"temperature": 0.9, "top_k": 4, "seed": 5, "stop": ["q"]},
    ),
}

BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "top_k": ({"text_input": "x", "top_k": -1}, "top_k = -1"),
    "temperature nan": ({"text_input": "x", "temperature": float("nan")}, "temperature = nan"),
    "temperature": ({"text_input": "x", "temperature": -0.5}, "temperature = -0.5"),
    "top_p": ({"text_input": "x", "top_p": 0.0}, "top_p = 0.0"),
    "empty prompt": ({"text_input": ""}, "text_input: is empty"),
    "no tokens": ({"input_ids": []}, "num_prompt_tokens is 0"),
    "no prompt": ({"max_tokens": 3}, "text_input, input_ids: neither is given"),
    "two prompts": ({"text_input": "x", "input_ids": [1]}, "text_input, input_ids: both are given"),
    "prompt too long": ({"input_ids": [5] * (2**20 + 1)}, "num_prompt_tokens is 1048577"),
    "id beyond the vocabulary": ({"input_ids": [1, 320]}, "prompt_token_ids[1] is 320"),
    "negative id": ({"input_ids": [1, -1]}, "prompt_token_ids[1] is -1"),
    "max_tokens -1": ({"text_input": "x", "max_tokens": -1}, "max_tokens = -1"),
    "logprobs": ({"text_input": "x", "logprobs": 21}, "logprobs = 21"),
    "bias of nothing": ({"text_input": "x", "logit_bias_ids": [1]}, "have 1 and 0 values"),
    "max_tokens too large": ({"text_input": "x", "max_tokens": 2**31 - 1}, "max_tokens is 21474"),
    "min_tokens": ({"text_input": "x", "max_tokens": 2, "min_tokens": 3}, "min_tokens = 3"),
    "empty stop word": ({"text_input": "x", "stop_words": [""]}, "stop = ['']"),
    "stop token": ({"text_input": "x", "stop_token_ids": [320]}, "stop_token_ids[0] is 320"),
    "sequences": ({"text_input": "x", "num_return_sequences": 17}, "num_return_sequences is 17"),
    "two lengths": (
        {"text_input": "x", "max_tokens": 3, "request_output_len": 4},
        "max_tokens = 3, request_output_len = 4",
    ),
    "not JSON": ({"text_input": "x", "sampling_parameters": "{"}, "sampling_parameters: is not"),
    "unknown option": (
        {"text_input": "x", "sampling_parameters": '{"beam_width": 4}'},
        "sampling_parameters: beam_width",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def server(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with serving(engine, tmp_path_factory.mktemp("repository")) as running:
        yield running


@pytest.fixture(scope="module")
def llm(engine: Path) -> Iterator[LLM]:
    with LLM(engine) as opened:
        yield opened


def joined(responses: list[Response]) -> tuple[str, list[int], str]:
    """Text, token ids and the last finish reason."""
    assert "error" not in responses[-1], responses[-1]
    text = "".join(response["text_output"] for response in responses)
    token_ids = [token for response in responses for token in response["output_ids"]]
    return text, token_ids, responses[-1]["finish_reason"]


def answer(output: CompletionOutput) -> tuple[str, list[int], str | None]:
    return output.text, output.token_ids, output.finish_reason


@pytest.mark.parametrize("name", PARAMETERS)
def test_same_tokens_as_in_process(name: str, server: TritonServer, llm: LLM) -> None:
    inputs, options = PARAMETERS[name]
    expected = llm.generate(PROMPT, SamplingParams(**options)).outputs[0]
    request = {"text_input": PROMPT, **inputs}
    assert joined(grpc_stream(server, {**request, "stream": True})) == answer(expected)
    assert joined(http_stream(server, {**request, "stream": True})) == answer(expected)
    status, whole = http_generate(server, request)
    assert (status, whole["text_output"]) == (200, expected.text)
    assert whole["finish_reason"] == expected.finish_reason


def test_token_ids_in(server: TritonServer, llm: LLM) -> None:
    prompt = [313, 1, 250, 99, 17]
    expected = llm.generate(prompt, SamplingParams(**DRAWN)).outputs[0]
    for inputs in ({"input_ids": prompt, **DRAWN}, {"input_ids": prompt, **DRAWN, "stream": True}):
        assert joined(grpc_stream(server, inputs)) == answer(expected)
        assert joined(http_stream(server, inputs)) == answer(expected)


def test_streams_while_it_generates(server: TritonServer) -> None:
    request = {"input_ids": [1], "max_tokens": 1500, "ignore_eos": True, "stream": True}
    for responses in (grpc_stream(server, request), http_stream(server, request)):
        assert len(responses) > 10
        assert len(joined(responses)[1]) == 1500
        assert all(response["finish_reason"] == "" for response in responses[:-1])


def test_without_stream_there_is_one_response(server: TritonServer) -> None:
    request = {"input_ids": [1], "max_tokens": 300, "ignore_eos": True}
    (response,) = grpc_stream(server, request)
    assert len(response["output_ids"]) == 300


def test_several_sequences(server: TritonServer, llm: LLM) -> None:
    expected = llm.generate(PROMPT, SamplingParams(**DRAWN, n=3)).outputs
    request = {"text_input": PROMPT, **DRAWN, "num_return_sequences": 3, "stream": True}
    responses = grpc_stream(server, request)
    for output in expected:
        own = [r for r in responses if r["sequence_index"] == output.index]
        assert joined(own) == answer(output)
    assert len({joined([r])[0] for r in responses}) > 1


def test_log_probs(server: TritonServer, llm: LLM) -> None:
    expected = llm.generate(PROMPT, SamplingParams(**DRAWN, logprobs=0)).outputs[0]
    request = {"text_input": PROMPT, **DRAWN, "return_log_probs": True, "stream": True}
    assert expected.logprobs is not None
    pairs = zip(expected.logprobs, expected.token_ids, strict=True)
    drawn = [entry[token].logprob for entry, token in pairs]
    for responses in (grpc_stream(server, request), http_stream(server, request)):
        found = [value for response in responses for value in response["output_log_probs"]]
        assert found == pytest.approx(drawn, rel=1e-6)
        assert responses[-1]["cum_log_probs"] == pytest.approx(sum(drawn), rel=1e-5)
    (plain,) = grpc_stream(server, {"text_input": PROMPT})
    assert "output_log_probs" not in plain


def test_likeliest_tokens_and_log_probs_of_the_prompt(server: TritonServer, llm: LLM) -> None:
    params = SamplingParams(**DRAWN, logprobs=2, prompt_logprobs=1, logit_bias={7: 8.0, 9: -100.0})
    expected = llm.generate(PROMPT, params)
    assert expected.prompt_logprobs is not None
    of_prompt = [entry for entry in expected.prompt_logprobs if entry is not None]
    assert len(of_prompt) == len(expected.prompt_token_ids) - 1
    likeliest = [best(entry, 2) for entry in expected.outputs[0].logprobs or []]
    bias = {"logit_bias_ids": [7, 9], "logit_bias_values": [8.0, -100.0]}
    request = {"text_input": PROMPT, **DRAWN, "logprobs": 2, "prompt_logprobs": 1, **bias}
    for is_streaming in (False, True):
        body = {**request, "stream": is_streaming}
        for responses in (grpc_stream(server, body), http_stream(server, body)):
            assert joined(responses)[1] == expected.outputs[0].token_ids
            tops = [pair for r in responses for pair in top_pairs(r, "top")]
            assert tops == [pair for entry in likeliest for pair in entry]
            assert all("prompt_log_probs" not in response for response in responses[1:])
            own = [next(iter(entry.values())).logprob for entry in of_prompt]
            assert responses[0]["prompt_log_probs"] == pytest.approx(own, rel=1e-6)
            assert top_pairs(responses[0], "prompt_top") == [
                best(entry, 1)[0] for entry in of_prompt
            ]


def best(entry: dict[int, Logprob], count: int) -> list[tuple[int, float]]:
    """The likeliest tokens of an entry, likeliest first."""
    ranked = sorted((lp.rank, token, lp.logprob) for token, lp in entry.items() if lp.rank)
    return [(token, logprob) for _, token, logprob in ranked[:count]]


def top_pairs(response: Response, prefix: str) -> list[tuple[int, float]]:
    """(token id, natural log) of a response's likeliest tokens."""
    log_probs = np.asarray(response[f"{prefix}_log_probs"], np.float32).tolist()
    return list(zip(response[f"{prefix}_token_ids"], log_probs, strict=True))


def test_prompt_alone_is_scored(server: TritonServer) -> None:
    request = {"text_input": PROMPT, "max_tokens": 0, "prompt_logprobs": 0, "stream": True}
    (response,) = grpc_stream(server, request)
    assert response["output_ids"] == []
    assert response["finish_reason"] == "length"
    assert len(response["prompt_log_probs"]) > 1


def test_counts_and_times(server: TritonServer) -> None:
    request = {"input_ids": [4, 5, 6], "max_tokens": 40, "ignore_eos": True, "stream": True}
    last = grpc_stream(server, {**request, "return_perf_metrics": True})[-1]
    assert (last["num_input_tokens"], last["num_output_tokens"]) == (3, 40)
    times = ["arrival", "first_scheduled", "first_token", "last_token"]
    values = [last[f"{name}_time_ns"] for name in times]
    assert values == sorted(values)
    assert values[0] > 0
    assert "num_input_tokens" not in grpc_stream(server, request)[-1]


def test_prompt_can_be_repeated(server: TritonServer) -> None:
    request = {"text_input": PROMPT, **DRAWN, "stream": True}
    plain = joined(grpc_stream(server, request))
    repeated = joined(grpc_stream(server, {**request, "exclude_input_in_output": False}))
    assert repeated[0] == PROMPT + plain[0]
    assert repeated[1][-len(plain[1]) :] == plain[1]
    assert len(repeated[1]) > len(plain[1])


def test_timeouts_end_a_request(server: TritonServer) -> None:
    assert_timeouts_end_a_request(server)


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_is_answered_with_its_reason(name: str, server: TritonServer) -> None:
    request, reason = BAD_REQUESTS[name]
    (response,) = grpc_stream(server, request)
    assert reason in response["error"]
    if "input_ids" not in request or request["input_ids"]:
        status, body = http_generate(server, request)
        assert status == 400
        assert reason in body["error"]
    (event,) = http_stream(server, {**request, "stream": True})
    assert reason in event["error"]
    assert joined(grpc_stream(server, {"input_ids": [1]}))[1]  # and the server goes on


def test_bad_requests_do_not_hurt_their_neighbours(server: TritonServer) -> None:
    good = {"input_ids": [3, 4], "max_tokens": 400, "ignore_eos": True, "seed": 9}
    (alone,) = grpc_stream(server, good)
    with GrpcStream(server) as stream:
        stream.submit(good, "good")
        for request, _ in BAD_REQUESTS.values():
            if request.get("input_ids") != []:
                stream.submit(request)
        responses = [stream.next() for _ in range(len(BAD_REQUESTS))]
    (found,) = [response for response in responses if response.get("id") == "good"]
    assert found["output_ids"] == alone["output_ids"]


def test_key_of_no_input_is_refused(server: TritonServer) -> None:
    status, body = http_generate(server, {"text_input": "x", "max_token": 3})
    assert status == 400
    assert "max_token: there is no such option; did you mean max_tokens?" in body["error"]


@pytest.mark.parametrize(
    "body",
    [
        {"text_input": ["a", "b"]},
        {"text_input": 3},
        {"text_input": "x", "max_tokens": "many"},
        {"text_input": "x", "seed": -1},
        {"input_ids": [1.5]},
        {"input_ids": "1"},
        {"text_input": "\ud800"},
    ],
)
def test_wrong_types_are_refused(body: dict[str, Any], server: TritonServer) -> None:
    status, answered = http_generate(server, body)
    assert status >= 400
    assert answered["error"]
    assert joined(grpc_stream(server, {"input_ids": [1]}))[1]


def test_text_that_is_not_utf8(server: TritonServer) -> None:
    with GrpcStream(server) as stream:
        stream.submit({"text_input": np.array([b"caf\xe9"], np.object_).tolist()})
        assert "text_input: is not UTF-8" in stream.next()["error"]


def test_metrics_count_what_was_served(server: TritonServer) -> None:
    assert_counts_what_is_served(server)
