# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.requests import GenerationRequest
from enginery.triton_backend.responses import ResponseWriter, merge
from enginery.triton_backend.tensors import OUTPUTS
from tests.support.events import event

DTYPES = {"STRING": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}


def writer(**options: Any) -> ResponseWriter:
    defaults = {
        "prompt": "ab",
        "prompt_token_ids": [7, 8],
        "sampling_params": SamplingParams(),
        "bad_token_sequences": (),
        "is_streaming": True,
        "repeats_prompt": False,
        "returns_perf_metrics": False,
        "priority": 0,
        "timeout_ms": 0,
    }
    return ResponseWriter(GenerationRequest(**{**defaults, **options}))


def test_plain_response_has_the_outputs_that_are_always_there() -> None:
    tensors = writer().tensors(event(text="é", token_ids=[195, 169], sequence_index=2))
    assert set(tensors) == {spec.name for spec in OUTPUTS if not spec.is_optional}
    assert tensors["text_output"].tolist() == ["é".encode()]
    assert tensors["output_ids"].tolist() == [195, 169]
    assert tensors["sequence_index"].tolist() == [2]
    assert tensors["finish_reason"].tolist() == [b""]


def test_types_and_shapes_are_the_declared_ones() -> None:
    params = SamplingParams(logprobs=1, prompt_logprobs=1)
    all_of_it = writer(sampling_params=params, returns_perf_metrics=True)
    logprobs = [[(4, -1.0), (7, -0.5)], [(5, -2.0), (8, -0.25)]]
    tensors = all_of_it.tensors(
        event(token_ids=[4, 5], logprobs=logprobs, prompt_logprobs=logprobs, finish_reason="LENGTH")
    )
    assert set(tensors) == {spec.name for spec in OUTPUTS}
    for spec in OUTPUTS:
        array = tensors[spec.name]
        assert array.dtype == DTYPES[spec.data_type], spec.name
        assert array.shape == ((2,) if spec.dims == (-1,) else (1,)), spec.name


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("END_ID", b"stop"), ("STOP", b"stop"), ("LENGTH", b"length"), ("CANCELLED", b"cancelled"),
     ("TIMEOUT", b"timeout"), (None, b"")],
)  # fmt: skip
def test_finish_reasons(reason: str | None, shown: bytes) -> None:
    assert writer().tensors(event(finish_reason=reason))["finish_reason"].tolist() == [shown]


def test_log_probs_add_up_per_sequence() -> None:
    writes = writer(sampling_params=SamplingParams(logprobs=0))
    first = writes.tensors(event(token_ids=[4], logprobs=[[(4, -1.5)]]))
    writes.tensors(event(sequence_index=1, token_ids=[4], logprobs=[[(4, -100.0)]]))
    second = writes.tensors(event(token_ids=[5], logprobs=[[(5, -0.25), (9, -0.1)]]))
    assert first["cum_log_probs"].tolist() == [-1.5]
    assert second["output_log_probs"].tolist() == [-0.25]
    assert second["cum_log_probs"].tolist() == [-1.75]
    none = writes.tensors(event())
    assert none["output_log_probs"].shape == (0,)
    assert "top_token_ids" not in none


def test_likeliest_tokens_follow_one_another() -> None:
    writes = writer(sampling_params=SamplingParams(logprobs=2))
    logprobs = [[(4, -1.5), (9, -0.25), (4, -1.5)], [(5, -4.0), (6, -0.125), (7, -0.5)]]
    tensors = writes.tensors(event(token_ids=[4, 5], logprobs=logprobs))
    assert tensors["output_log_probs"].tolist() == [-1.5, -4.0]
    assert tensors["top_token_ids"].tolist() == [9, 4, 6, 7]
    assert tensors["top_log_probs"].tolist() == [-0.25, -1.5, -0.125, -0.5]
    assert writes.tensors(event())["top_log_probs"].dtype == np.float32


def test_logprobs_of_the_prompt() -> None:
    writes = writer(sampling_params=SamplingParams(prompt_logprobs=1))
    tensors = writes.tensors(event(prompt_logprobs=[[(8, -2.0), (9, -0.25)]]))
    assert tensors["prompt_log_probs"].tolist() == [-2.0]
    assert tensors["prompt_top_token_ids"].tolist() == [9]
    assert tensors["prompt_top_log_probs"].tolist() == [-0.25]
    assert "output_log_probs" not in tensors
    # A prompt of one token has none, and says so.
    assert writes.tensors(event(prompt_logprobs=[]))["prompt_log_probs"].shape == (0,)
    assert "prompt_log_probs" not in writes.tensors(event())
    plain = writer(sampling_params=SamplingParams(prompt_logprobs=0))
    assert "prompt_top_token_ids" not in plain.tensors(event(prompt_logprobs=[[(8, -2.0)]]))


def test_merge_leaves_what_is_of_the_prompt_in_the_first_response() -> None:
    of_prompt = [[(8, -2.0)]]
    merged = merge(
        [
            event(text="a", prompt_logprobs=of_prompt),
            event(sequence_index=1, text="x"),
            event(text="b"),
        ]
    )
    assert [(e.text, e.prompt_logprobs) for e in merged] == [("x", of_prompt), ("ab", None)]
    (joined,) = merge([event(text="a", prompt_logprobs=of_prompt), event(text="b")])
    assert joined.prompt_logprobs is of_prompt


def test_prompt_is_repeated_once_per_sequence() -> None:
    writes = writer(repeats_prompt=True)
    texts = [
        writes.tensors(event(sequence_index=i, text="c", token_ids=[9]))["text_output"][0]
        for i in (0, 1, 0, 1)
    ]
    assert texts == [b"abc", b"abc", b"c", b"c"]


def test_prompt_given_as_token_ids_is_repeated_as_such() -> None:
    tensors = writer(repeats_prompt=True, prompt=None).tensors(event(text="c", token_ids=[9]))
    assert tensors["text_output"].tolist() == [b"c"]
    assert tensors["output_ids"].tolist() == [7, 8, 9]


def test_counts_and_times_come_with_the_end_alone() -> None:
    writes = writer(returns_perf_metrics=True)
    assert "num_output_tokens" not in writes.tensors(event(text="c"))
    last = writes.tensors(event(finish_reason="TIMEOUT", num_output_tokens=5))
    assert last["num_output_tokens"].tolist() == [5]
    assert last["arrival_time_ns"].tolist() == [10]
    assert last["first_token_time_ns"].tolist() == [0]


def test_merge_joins_what_belongs_to_a_sequence() -> None:
    merged = merge(
        [
            event(text="a", token_ids=[1], logprobs=[[(1, -1.0)]], num_output_tokens=1),
            event(sequence_index=1, text="x", token_ids=[5]),
            event(text="b", token_ids=[2], logprobs=[[(2, -2.0)]], num_output_tokens=2),
            event(sequence_index=1, finish_reason="LENGTH", token_ids=[6]),
            event(finish_reason="STOP", is_last=True, num_output_tokens=2),
        ]
    )
    assert [(e.sequence_index, e.text, e.token_ids) for e in merged] == [
        (1, "x", [5, 6]),
        (0, "ab", [1, 2]),
    ]
    assert [e.finish_reason for e in merged] == ["LENGTH", "STOP"]
    assert [e.is_last for e in merged] == [False, True]
    assert merged[1].logprobs == [[(1, -1.0)], [(2, -2.0)]]
    assert merged[1].num_output_tokens == 2
    assert merged[0].logprobs is None


def test_merge_joins_logits() -> None:
    first, second = np.zeros((1, 4), np.float32), np.ones((2, 4), np.float32)
    (joined,) = merge(
        [
            event(token_ids=[1], context_logits=second, generation_logits=first),
            event(token_ids=[2, 3], generation_logits=second),
            event(finish_reason="LENGTH", is_last=True),
        ]
    )
    assert joined.generation_logits is not None
    assert joined.generation_logits.tolist() == [*first.tolist(), *second.tolist()]
    assert joined.context_logits is second
    (plain,) = merge([event(token_ids=[1]), event(token_ids=[2])])
    assert plain.generation_logits is None


def test_merge_changes_no_event() -> None:
    first, second = event(token_ids=[1], text="a"), event(token_ids=[2], text="b")
    merge([first, second])
    assert (first.token_ids, second.token_ids) == ([1], [2])
    assert merge([]) == []
