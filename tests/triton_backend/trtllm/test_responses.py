# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.trtllm.requests import RowRequest
from enginery.triton_backend.trtllm.responses import RowWriter
from enginery.triton_backend.trtllm.tensors import TENSORRT_LLM_OUTPUTS
from enginery.triton_backend.trtllm.token_text import TokenBytes
from tests.support.events import event as make_event
from tests.support.tokenizer import EOS_TOKEN_ID

ALL = [spec.name for spec in TENSORRT_LLM_OUTPUTS]
VOCAB_SIZE = 4


def row(**changes: Any) -> RowRequest:
    options: dict[str, Any] = {
        "prompt_token_ids": [1, 2],
        "sampling_params": SamplingParams(),
        "end_token_ids": (EOS_TOKEN_ID,),
        "is_streaming": True,
        "repeats_prompt": False,
        "returns_log_probs": False,
        "returns_perf_metrics": False,
        "returns_num_input_tokens": False,
        "returns_num_output_tokens": False,
    }
    return RowRequest(**{**options, **changes})


@pytest.fixture
def writer(token_bytes: TokenBytes) -> Any:
    def make(num_rows: int = 1, wanted: list[str] = ALL, **changes: Any) -> RowWriter:
        return RowWriter(row(**changes), token_bytes, 16, 1, num_rows, wanted)

    return make


def lists(tensors: Any) -> dict[str, Any]:
    return {name: array.tolist() for name, array in tensors.items()}


def test_new_tokens(writer: Any) -> None:
    stream = writer()
    first = stream.tensors(make_event(token_ids=[65]))
    assert lists(first) == {"output_ids": [[[65]]], "sequence_length": [[1]]}
    last = stream.tensors(make_event(token_ids=[66, 67], finish_reason="LENGTH", is_last=True))
    assert lists(last) == {"output_ids": [[[66, 67]]], "sequence_length": [[2]]}


def test_prompt_is_repeated(writer: Any) -> None:
    once = writer(is_streaming=False, repeats_prompt=True)
    tensors = once.tensors(make_event(token_ids=[65], finish_reason="LENGTH"))
    assert lists(tensors) == {"output_ids": [[[1, 2, 65]]], "sequence_length": [[3]]}


def test_tokens_of_half_a_character_wait(writer: Any) -> None:
    stream = writer(returns_log_probs=True)
    logprobs = [[[(0xC3, -1.0)]], [[(0xA9, -2.0)]]]
    assert stream.tensors(make_event(token_ids=[0xC3], logprobs=logprobs[0])) is None
    tensors = lists(stream.tensors(make_event(token_ids=[0xA9], logprobs=logprobs[1])))
    assert tensors["output_ids"] == [[[0xC3, 0xA9]]]
    assert tensors["output_log_probs"] == [[[-1.0, -2.0]]]
    assert stream.tensors(make_event(token_ids=[0xE2])) is None
    last = stream.tensors(make_event(token_ids=[], finish_reason="CANCELLED", is_last=True))
    assert lists(last)["output_ids"] == [[[0xE2]]]


def test_end_token_is_no_part_of_the_output(writer: Any) -> None:
    event = {"finish_reason": "END_ID", "stop_token_id": EOS_TOKEN_ID}
    tensors = writer().tensors(make_event(token_ids=[65, EOS_TOKEN_ID], **event))
    assert lists(tensors)["output_ids"] == [[[65]]]
    alone = writer().tensors(make_event(token_ids=[EOS_TOKEN_ID], **event))
    assert alone["output_ids"].shape == (1, 1, 0)
    assert lists(alone)["sequence_length"] == [[0]]


def test_stop_token_is_part_of_the_output(writer: Any) -> None:
    event = make_event(token_ids=[65, 66], finish_reason="STOP", stop_token_id=66)
    assert lists(writer().tensors(event))["output_ids"] == [[[65, 66]]]


def test_log_probs_are_of_the_whole_output(writer: Any) -> None:
    stream = writer(returns_log_probs=True)
    stream.tensors(make_event(token_ids=[65], logprobs=[[(65, -0.5)]]))
    tensors = lists(stream.tensors(make_event(token_ids=[66], logprobs=[[(66, -1.0)]])))
    assert tensors["output_log_probs"] == [[[-0.5, -1.0]]]
    assert tensors["cum_log_probs"] == [[-1.5]]


def test_indices(writer: Any) -> None:
    params = SamplingParams(n=2, temperature=1.0)
    tensors = writer(num_rows=3, sampling_params=params).tensors(
        make_event(token_ids=[65], sequence_index=1)
    )
    assert lists(tensors)["batch_index"] == [[1]]
    assert lists(tensors)["sequence_index"] == [[1]]


def test_sequences_are_told_apart(writer: Any) -> None:
    stream = writer(sampling_params=SamplingParams(n=2), returns_num_output_tokens=True)
    assert stream.tensors(make_event(token_ids=[0xC3], sequence_index=0)) is None
    other = lists(stream.tensors(make_event(token_ids=[65, 66], sequence_index=1)))
    assert other["num_output_tokens"] == [[2]]
    tensors = lists(stream.tensors(make_event(token_ids=[0xA9], sequence_index=0)))
    assert tensors["output_ids"] == [[[0xC3, 0xA9]]]


def test_logits(writer: Any) -> None:
    params = SamplingParams(return_context_logits=True, return_generation_logits=True)
    context = np.arange(2 * VOCAB_SIZE, dtype=np.float32).reshape(2, VOCAB_SIZE)
    drawn = np.ones((2, VOCAB_SIZE), np.float32)
    event = make_event(token_ids=[65, 66], context_logits=context, generation_logits=drawn)
    stream = writer(sampling_params=params)
    tensors = stream.tensors(event)
    assert np.array_equal(tensors["context_logits"], context[np.newaxis])
    assert tensors["generation_logits"].shape == (1, 2, 1, VOCAB_SIZE)
    later = stream.tensors(make_event(token_ids=[67], generation_logits=drawn[:1]))
    assert np.array_equal(later["context_logits"], context[np.newaxis])
    once = writer(sampling_params=params, is_streaming=False).tensors(event)
    assert once["generation_logits"].shape == (1, 1, 2, VOCAB_SIZE)


def test_counts_and_times(writer: Any) -> None:
    event = make_event(
        token_ids=[65], num_prompt_tokens=32, num_output_tokens=2, num_reused_tokens=17,
        arrival_ns=1, first_scheduled_ns=2, first_token_ns=3, last_token_ns=4,
    )  # fmt: skip
    stream = writer(
        returns_perf_metrics=True, returns_num_input_tokens=True, returns_num_output_tokens=True
    )
    tensors = lists(stream.tensors(event))
    del tensors["output_ids"], tensors["sequence_length"]
    assert tensors == {
        "num_input_tokens": [[32]],
        "num_output_tokens": [[1]],
        "kv_cache_alloc_total_blocks": [[3]],
        "kv_cache_reused_blocks": [[1]],
        "kv_cache_alloc_new_blocks": [[2]],
        "acceptance_rate": [[0.0]],
        "total_accepted_draft_tokens": [[0]],
        "total_draft_tokens": [[0]],
        "arrival_time_ns": [[1]],
        "first_scheduled_time_ns": [[2]],
        "first_token_time_ns": [[3]],
        "last_token_time_ns": [[4]],
    }


def test_only_what_is_wanted(writer: Any) -> None:
    stream = writer(wanted=["output_ids"], returns_perf_metrics=True)
    assert lists(stream.tensors(make_event(token_ids=[65]))) == {"output_ids": [[[65]]]}


def test_types_are_those_of_the_table(writer: Any) -> None:
    dtypes = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
    stream = writer(
        num_rows=2,
        sampling_params=SamplingParams(n=2, return_generation_logits=True),
        **{
            f"returns_{name}": True
            for name in ("log_probs", "perf_metrics", "num_input_tokens", "num_output_tokens")
        },
    )
    logits = np.ones((1, VOCAB_SIZE), np.float32)
    tensors = stream.tensors(
        make_event(
            token_ids=[65], logprobs=[[(65, -1.0)]], context_logits=logits, generation_logits=logits
        )
    )
    specs = {spec.name: spec for spec in TENSORRT_LLM_OUTPUTS}
    assert tensors.keys() == specs.keys() - {"context_phase_params"}
    for name, array in tensors.items():
        assert array.dtype == dtypes[specs[name].data_type], name
        assert array.ndim == 1 + len(specs[name].dims), name
