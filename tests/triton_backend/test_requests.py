# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer
from enginery.triton_backend.requests import (
    GenerationRequest,
    check_parameters,
    read_request,
    shorter_timeout_ms,
)
from tests.support.tokenizer import BOS_TOKEN_ID, write_tiny_tokenizer

TEXT = np.array([b"ab"], np.object_)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tiny_tokenizer(folder, adds_bos=True)
    return Tokenizer(folder)


@pytest.fixture
def read(tokenizer: Tokenizer) -> Any:
    def reads(**arrays: npt.NDArray[Any]) -> GenerationRequest:
        return read_request(arrays, lambda: tokenizer)

    return reads


def no_tokenizer() -> Tokenizer:
    raise AssertionError("there is no text to encode")


@pytest.mark.parametrize(
    ("own_ms", "server_us", "expected_ms"),
    [(0, 0, 0), (200, 0, 200), (0, 1, 1), (0, 999, 1), (0, 200_000, 201), (5, 200_000, 5),
     (500, 200_000, 201), (-3, 200_000, -3)],
)  # fmt: skip
def test_the_shorter_timeout_holds(own_ms: int, server_us: int, expected_ms: int) -> None:
    assert shorter_timeout_ms(own_ms, server_us) == expected_ms


def test_defaults(read: Any) -> None:
    request = read(text_input=TEXT)
    assert request.prompt == "ab"
    assert request.prompt_token_ids == [BOS_TOKEN_ID, ord("a"), ord("b")]
    assert request.sampling_params == SamplingParams()
    assert not request.is_streaming
    assert not request.repeats_prompt
    assert (request.priority, request.timeout_ms) == (0, 0)


def test_token_ids_need_no_tokenizer() -> None:
    arrays = {"input_ids": np.array([5, 6, 7], np.int32)}
    request = read_request(arrays, no_tokenizer)
    assert request.prompt is None
    assert request.prompt_token_ids == [5, 6, 7]


def test_every_option(read: Any) -> None:
    request = read(
        text_input=TEXT,
        max_tokens=np.array([7], np.int32),
        min_tokens=np.array([2], np.int32),
        num_return_sequences=np.array([3], np.int32),
        temperature=np.array([0.5], np.float32),
        top_k=np.array([11], np.int32),
        top_p=np.array([0.25], np.float32),
        min_p=np.array([0.125], np.float32),
        seed=np.array([2**64 - 1], np.uint64),
        repetition_penalty=np.array([1.5], np.float32),
        presence_penalty=np.array([-0.5], np.float32),
        frequency_penalty=np.array([0.75], np.float32),
        stop_words=np.array([b"x", "é".encode()], np.object_),
        bad_words=np.array([b"q"], np.object_),
        stop_token_ids=np.array([3, 4], np.int32),
        end_id=np.array([9], np.int32),
        ignore_eos=np.array([True]),
        logit_bias_ids=np.array([300, 0], np.int32),
        logit_bias_values=np.array([-np.inf, 1.5], np.float32),
        logprobs=np.array([4], np.int32),
        prompt_logprobs=np.array([2], np.int32),
        include_stop_token=np.array([True]),
        return_log_probs=np.array([True]),
        return_perf_metrics=np.array([True]),
        exclude_input_in_output=np.array([False]),
        stream=np.array([True]),
        priority=np.array([-3], np.int32),
        timeout_ms=np.array([2**40], np.int64),
    )
    assert request.sampling_params == SamplingParams(
        max_tokens=7, min_tokens=2, n=3, temperature=0.5, top_k=11, top_p=0.25, min_p=0.125,
        seed=2**64 - 1, repetition_penalty=1.5, presence_penalty=-0.5, frequency_penalty=0.75,
        stop=("x", "é"), bad=("q",), stop_token_ids=[3, 4], end_id=9, ignore_eos=True, logprobs=4,
        logit_bias={300: -math.inf, 0: 1.5}, prompt_logprobs=2, include_stop_token=True,
    )  # fmt: skip
    assert request.bad_token_sequences == [[ord("q")], [ord(" "), ord("q")]]
    assert request.is_streaming
    assert request.repeats_prompt
    assert request.returns_perf_metrics
    assert (request.priority, request.timeout_ms) == (-3, 2**40)


def test_options_as_json(read: Any) -> None:
    text = np.array([b'{"temperature": 0.5, "stop": ["x"], "n": 2}'], np.object_)
    request = read(text_input=TEXT, sampling_parameters=text, top_k=np.array([4], np.int32))
    assert request.sampling_params == SamplingParams(temperature=0.5, stop=("x",), n=2, top_k=4)


def test_logprobs_and_bias_as_json(read: Any) -> None:
    text = np.array([b'{"logprobs": 3, "logit_bias": {"7": -100, "0": 0.5}}'], np.object_)
    request = read(text_input=TEXT, sampling_parameters=text)
    assert request.sampling_params == SamplingParams(logprobs=3, logit_bias={7: -100, 0: 0.5})
    off = np.array([b'{"logprobs": null, "logit_bias": null}'], np.object_)
    assert read(text_input=TEXT, sampling_parameters=off).sampling_params == SamplingParams()
    asked = read(text_input=TEXT, sampling_parameters=off, return_log_probs=np.array([True]))
    assert asked.sampling_params.logprobs == 0


@pytest.mark.parametrize("name", ["stream", "streaming"])
def test_both_names_of_stream(name: str, read: Any) -> None:
    assert read(text_input=TEXT, **{name: np.array([True])}).is_streaming


def test_both_names_of_max_tokens(read: Any) -> None:
    request = read(text_input=TEXT, request_output_len=np.array([9], np.int32))
    assert request.sampling_params.max_tokens == 9
    same = {"request_output_len": np.array([9], np.int32), "max_tokens": np.array([9], np.int32)}
    assert read(text_input=TEXT, **same).sampling_params.max_tokens == 9


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "text_input, input_ids: neither is given"),
        ({"text_input": TEXT, "input_ids": np.array([1], np.int32)}, "both are given"),
        ({"text_input": np.array([b""], np.object_)}, "text_input: is empty"),
        ({"text_input": np.array([b"a", b"b"], np.object_)}, "text_input: has 2 values; give one"),
        ({"text_input": np.array([], np.object_)}, "text_input: has 0 values; give one"),
        ({"text_input": np.array([b"\xff"], np.object_)}, "text_input: is not UTF-8"),
        ({"text_input": TEXT, "seed": np.array([1, 2], np.uint64)}, "seed: has 2 values"),
        ({"text_input": TEXT, "top_p": np.array([np.nan], np.float32)}, "top_p = nan"),
        ({"text_input": TEXT, "stop_words": np.array([b"\xc3"], np.object_)}, "stop_words: is not"),
        (
            {"text_input": TEXT, "stream": np.array([True]), "streaming": np.array([False])},
            "stream = True, streaming = False: two names of one thing",
        ),
        (
            {"text_input": TEXT, "sampling_parameters": np.array([b"[1]"], np.object_)},
            "sampling_parameters: must be a JSON object",
        ),
        (
            {"text_input": TEXT, "sampling_parameters": np.array([b'{"n": "2"}'], np.object_)},
            "n = '2'",
        ),
        (
            {
                "text_input": TEXT,
                "sampling_parameters": np.array([b'{"top_k": 2}'], np.object_),
                "top_k": np.array([2], np.int32),
            },
            "sampling_parameters: top_k: is given by an input too",
        ),
        (
            {"text_input": TEXT, "logit_bias_ids": np.array([1, 2], np.int32)},
            "logit_bias_ids, logit_bias_values: have 2 and 0 values; give one value per token id",
        ),
        (
            {"text_input": TEXT, "logit_bias_values": np.array([1], np.float32)},
            "logit_bias_ids, logit_bias_values: have 0 and 1 values",
        ),
        (
            {
                "text_input": TEXT,
                "logit_bias_ids": np.array([5, 5], np.int32),
                "logit_bias_values": np.array([1, 2], np.float32),
            },
            "logit_bias_ids: has a token id twice",
        ),
        (
            {
                "text_input": TEXT,
                "logit_bias_ids": np.array([-5], np.int32),
                "logit_bias_values": np.array([1], np.float32),
            },
            "logit_bias: -5: 1.0 is not a token id",
        ),
        *(
            (
                {"text_input": TEXT, "sampling_parameters": np.array([text], np.object_)},
                reason,
            )
            for text, reason in (
                (b'{"logit_bias": [1]}', "logit_bias = [1]: must map token ids to numbers"),
                (b'{"logit_bias": {"05": 1}}', "logit_bias: '05': 1 is not a token id"),
                (b'{"logit_bias": {"5": "1"}}', "logit_bias: 5: '1' is not a token id and a num"),
                (b'{"logit_bias": {"2147483648": 1}}', "logit_bias: 2147483648: 1 is not a token"),
                (b'{"logprobs": 21}', "logprobs = 21: must be None or an integer in 0 .. 20"),
            )
        ),
        # What no output would bring must not be asked for in silence.
        (
            {
                "text_input": TEXT,
                "sampling_parameters": np.array([b'{"return_context_logits": true}'], np.object_),
            },
            "sampling_parameters: return_context_logits: there is no such option",
        ),
    ],
)
def test_refused(arrays: dict[str, npt.NDArray[Any]], reason: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        read_request(arrays, lambda: tokenizer)
    assert reason in str(raised.value)


def test_parameters() -> None:
    check_parameters({})
    check_parameters({"id": "a", "triton_enable_empty_final_response": True, "beam_width": 1})
    with pytest.raises(InvalidArgumentError) as raised:
        check_parameters({"temprature": 1, "zzz": 2, "beam_width": 4, "no_repeat_ngram_size": 3})
    message = str(raised.value)
    assert "4 problems" in message
    assert "temprature: there is no such option; did you mean temperature?" in message
    assert "zzz: there is no such option\n" in message
    assert "beam_width = 4: not supported: beam search" in message
    assert "no_repeat_ngram_size = 3: not supported: not built" in message


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_that_is_nested_too_deep(read: Any, opening: str) -> None:
    deep = np.array([(opening * 100_000).encode()], np.object_)
    with pytest.raises(InvalidArgumentError, match="sampling_parameters: is nested too deep"):
        read(text_input=TEXT, sampling_parameters=deep)


def test_too_many_bad_words_are_counted_before_they_are_encoded() -> None:
    arrays = {
        "input_ids": np.array([5], np.int32),
        "bad_words": np.array([b"x y"] * 4097, np.object_),
    }
    with pytest.raises(InvalidArgumentError, match="bad_words: has 4097 words; give at most 4096"):
        read_request(arrays, no_tokenizer)
