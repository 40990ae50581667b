# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.trtllm.requests import RowReader, RowRequest
from enginery.triton_backend.trtllm.token_text import TokenBytes
from enginery.triton_backend.trtllm.word_lists import write_word_lists
from tests.support.tokenizer import EOS_TOKEN_ID

GREEDY: dict[str, Any] = {"top_k": 1, "top_p": 1.0}
ALWAYS: dict[str, Any] = {"include_stop_str_in_output": True, "skip_special_tokens": False}
NO_WORDS: dict[str, Any] = {"bad_token_ids": [], "stop_token_ids": []}


@pytest.fixture
def read(engine: Engine, token_bytes: TokenBytes) -> Any:
    def reads(is_decoupled: bool = True, excludes_input: bool = False, **arrays: Any) -> Any:
        reader = RowReader(
            engine.info, token_bytes, is_decoupled=is_decoupled, excludes_input=excludes_input
        )
        return reader.read({**prompt([[5, 6, 7]]), **arrays})

    return reads


def prompt(rows: list[list[int]]) -> dict[str, npt.NDArray[Any]]:
    width = max(map(len, rows))
    return {
        "input_ids": np.array([row + [9] * (width - len(row)) for row in rows], np.int32),
        "input_lengths": np.array([[len(row)] for row in rows], np.int32),
        "request_output_len": np.full((len(rows), 1), 7, np.int32),
    }


def one(rows: list[RowRequest]) -> RowRequest:
    (row,) = rows
    return row


def words(*tokens: list[int]) -> npt.NDArray[np.int32]:
    return write_word_lists([tokens])


def test_defaults(read: Any) -> None:
    row = one(read())
    assert row.prompt_token_ids == [5, 6, 7]
    assert row.sampling_params == SamplingParams(max_tokens=7, **NO_WORDS, **GREEDY, **ALWAYS)
    assert row.end_token_ids == (EOS_TOKEN_ID,)
    assert not row.is_streaming
    assert row.repeats_prompt
    assert not row.returns_log_probs
    assert not row.returns_perf_metrics


def test_every_option(read: Any) -> None:
    row = one(
        read(
            num_return_sequences=np.array([[3]], np.int32),
            end_id=np.array([[9]], np.int32),
            pad_id=np.array([[0]], np.int32),
            temperature=np.array([[0.5]], np.float32),
            runtime_top_k=np.array([[11]], np.int32),
            runtime_top_p=np.array([[0.25]], np.float32),
            repetition_penalty=np.array([[1.5]], np.float32),
            presence_penalty=np.array([[-0.5]], np.float32),
            frequency_penalty=np.array([[0.75]], np.float32),
            min_tokens=np.array([[2]], np.int32),
            seed=np.array([[2**64 - 1]], np.uint64),
            return_log_probs=np.array([[True]]),
            return_context_logits=np.array([[True]]),
            return_generation_logits=np.array([[True]]),
            return_perf_metrics=np.array([[True]]),
            return_num_input_tokens=np.array([[True]]),
            return_num_output_tokens=np.array([[True]]),
            exclude_input_in_output=np.array([[True]]),
            streaming=np.array([[True]]),
            stop=np.array([[False]]),
            bad_words_list=words([1, 2], [3]),
            stop_words_list=words([ord("a"), ord("b")], [EOS_TOKEN_ID], [0xC3]),
        )
    )
    assert row.sampling_params == SamplingParams(
        max_tokens=7, n=3, end_id=9, temperature=0.5, top_k=11, top_p=0.25, repetition_penalty=1.5,
        presence_penalty=-0.5, frequency_penalty=0.75, min_tokens=2, seed=2**64 - 1, logprobs=0,
        return_context_logits=True, return_generation_logits=True, bad_token_ids=[[1, 2], [3]],
        stop=["ab"], stop_token_ids=[EOS_TOKEN_ID, 0xC3], **ALWAYS,
    )  # fmt: skip
    assert row.end_token_ids == (9,)
    assert row.is_streaming
    assert not row.repeats_prompt
    flags = [getattr(row, field.name) for field in dataclasses.fields(row)]
    assert flags[-4:] == [True] * 4


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, None, GREEDY),
        (0, None, GREEDY),
        (0, 0.0, GREEDY),
        (1, 0.0, GREEDY),  # as NVIDIA's client sends it
        (5, None, {"top_k": 5, "top_p": 1.0}),
        (5, 0.0, {"top_k": 5, "top_p": 1.0}),
        (None, 0.5, {"top_k": None, "top_p": 0.5}),
        (0, 0.5, {"top_k": 0, "top_p": 0.5}),
        (5, 0.5, {"top_k": 5, "top_p": 0.5}),
    ],
)
def test_top_k_and_top_p(
    top_k: int | None, top_p: float | None, expected: dict[str, Any], read: Any
) -> None:
    arrays: dict[str, Any] = {}
    if top_k is not None:
        arrays["runtime_top_k"] = np.array([[top_k]], np.int32)
    if top_p is not None:
        arrays["runtime_top_p"] = np.array([[top_p]], np.float32)
    params = one(read(**arrays)).sampling_params
    assert {"top_k": params.top_k, "top_p": params.top_p} == expected


def test_rows_are_read_apart(read: Any) -> None:
    rows = read(
        **prompt([[1], [2, 3, 4]]),
        temperature=np.array([[0.5], [0.25]], np.float32),
        bad_words_list=write_word_lists([[[4]], [[5, 6], [7]]]),
    )
    assert [row.prompt_token_ids for row in rows] == [[1], [2, 3, 4]]
    assert [row.sampling_params.temperature for row in rows] == [0.5, 0.25]
    assert [row.sampling_params.bad_token_ids for row in rows] == [[[4]], [[5, 6], [7]]]


def test_scalars_without_a_dimension_of_their_own(read: Any) -> None:
    assert one(read(seed=np.array([4], np.uint64))).sampling_params.seed == 4


def test_end_id(read: Any) -> None:
    assert one(read(end_id=np.array([[-1]], np.int32))).sampling_params.end_id == -1


def test_embedding_bias(read: Any, engine: Engine) -> None:
    bias = np.zeros((1, engine.info.vocab_size), np.float32)
    bias[0, 4] = 2.5
    given = one(read(embedding_bias=bias)).sampling_params.embedding_bias
    assert given is not None
    assert np.asarray(given).tolist() == bias[0].tolist()
    empty = one(read(embedding_bias=np.empty((1, 0), np.float32)))
    assert empty.sampling_params.embedding_bias is None


def test_whether_the_prompt_is_repeated(read: Any) -> None:
    yes, no = np.array([[True]]), np.array([[False]])
    assert not one(read(excludes_input=True)).repeats_prompt
    assert one(read(excludes_input=True, exclude_input_in_output=no)).repeats_prompt
    assert not one(read(exclude_input_in_output=yes)).repeats_prompt
    assert not one(read(streaming=yes)).repeats_prompt  # streams never do


def test_one_response_a_request(read: Any) -> None:
    assert len(read(is_decoupled=False)) == 1
    with pytest.raises(InvalidArgumentError) as raised:
        read(
            is_decoupled=False,
            **prompt([[1], [2]]),
            streaming=np.array([[True], [False]]),
            num_return_sequences=np.array([[2], [1]], np.int32),
        )
    assert "decoupled_mode false, one response a request: 3 problems" in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"beam_width": np.array([[2]], np.int32)}, "beam_width = 2: beam search is not built"),
        ({"input_lengths": np.array([[4]], np.int32)}, "input_lengths = 4: input_ids has 3 tokens"),
        ({"input_lengths": np.array([[-1]], np.int32)}, "input_lengths = -1"),
        ({"seed": np.array([[1, 2]], np.uint64)}, "seed: has 2 values a row; give one"),
        ({"seed": np.empty((1, 0), np.uint64)}, "seed: has 0 values a row; give one"),
        ({"runtime_top_k": np.array([[-1]], np.int32)}, "top_k = -1"),
        ({"runtime_top_p": np.array([[1.5]], np.float32)}, "top_p = 1.5"),
        ({"temperature": np.array([[np.nan]], np.float32)}, "temperature = nan"),
        ({"request_output_len": np.array([[-1]], np.int32)}, "max_tokens = -1"),
        ({"stop_words_list": words([1 << 20])}, "stop_words_list: token id 1048576"),
        ({"stop_words_list": words([0xC3, 0x20])}, "stop_words_list: [195, 32]: these tokens"),
        ({"stop_words_list": np.zeros((1, 3, 2), np.int32)}, "stop_words_list: has shape [3, 2]"),
        ({"bad_words_list": words([-5])}, "bad_token_ids: [-5] is not"),
        ({"embedding_bias": np.full((1, 4), np.nan, np.float32)}, "embedding_bias: has NaN"),
    ],
)
def test_refused(arrays: dict[str, npt.NDArray[Any]], reason: str, read: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        read(**arrays)
    assert reason in str(raised.value)


def test_no_prompt(engine: Engine, token_bytes: TokenBytes) -> None:
    with pytest.raises(InvalidArgumentError, match="input_ids: is missing"):
        RowReader(engine.info, token_bytes).read({})
