# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.sampling_params import UNSUPPORTED, SamplingParams, token_id_of_name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("min_tokens", 33),
        ("min_tokens", -1),
        ("n", 0),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", -0.1),
        ("temperature", "1"),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 2**31),
        ("top_k", 1.0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.5),
        ("seed", -1),
        ("seed", 2**64),
        ("repetition_penalty", 0),
        ("repetition_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("logprobs", 21),
        ("logprobs", -1),
        ("prompt_logprobs", 21),
        ("prompt_logprobs", -1),
        ("include_stop_token", 1),
        ("end_id", -2),
        ("truncate_prompt_tokens", 0),
        ("ignore_eos", 1),
        ("detokenize", "yes"),
        ("stop", ["ok", ""]),
        ("stop", [7]),
        ("stop", 7),
        ("stop", b"bytes"),
        ("stop", "\ud800"),
        ("stop_token_ids", 7),
        ("bad_token_ids", 7),
        ("logit_bias", [1.0]),
        ("bad", [""]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", ["7"]),
        ("bad_token_ids", [[]]),
        ("bad_token_ids", [[1, -2]]),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: math.inf}),
        ("logit_bias", {"3": 1.0}),
        ("embedding_bias", [[1.0]]),
        ("embedding_bias", [1.0, math.nan]),
    ],
)
def test_refuses_and_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        SamplingParams(**{field: value})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"temperature": np.float32(0.5), "top_k": np.int64(3)},
        {"top_k": 0, "top_p": 1, "min_p": 1},
        {"seed": 2**64 - 1},
        {"min_tokens": 5, "max_tokens": 5},
        {"logit_bias": {3: -math.inf}},
        {"embedding_bias": np.zeros(7, np.float32)},
        {"bad_token_ids": [3, (4, 5)]},
        {"end_id": -1},
        {"logprobs": 20, "prompt_logprobs": 20},
        {"max_tokens": 0, "prompt_logprobs": 0},
    ],
)
def test_accepts_the_edges(options: dict[str, Any]) -> None:
    SamplingParams(**options)


def test_collects_all_problems() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        SamplingParams(n=0, top_p=2.0, top_k=-1)
    text = str(caught.value)
    assert "3 problems" in text
    for part in ("n = 0", "top_p = 2.0", "top_k = -1"):
        assert part in text


def test_one_text_stands_for_a_list() -> None:
    assert SamplingParams(stop="END").stop == ("END",)
    assert SamplingParams(stop=["a", "b"], bad="c") == SamplingParams(stop=("a", "b"), bad=["c"])


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_refuses_what_it_lacks_with_the_reason(name: str) -> None:
    neutral, reason = UNSUPPORTED[name]
    options: dict[str, Any] = {name: ["something"]}
    with pytest.raises(InvalidArgumentError) as caught:
        SamplingParams(**options)
    assert name in str(caught.value)
    assert reason in str(caught.value)
    for off in (None, *neutral):
        assert SamplingParams(**{name: off}) == SamplingParams()


def test_unknown_options_are_refused_together_with_unsupported_ones() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        SamplingParams(use_beam_search=True, temperatur=0.5)  # type: ignore[call-arg]
    assert "2 problems" in str(caught.value)
    assert "did you mean temperature?" in str(caught.value)


def test_does_not_change() -> None:
    with pytest.raises(AttributeError):
        SamplingParams().max_tokens = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "token_id"),
    [("0", 0), ("50256", 50256), ("", None), ("05", None), ("-5", None), ("+5", None), (" 5", None),
     ("5.0", None), ("5\n", None), ("٣", None), ("9" * 5000, None)],
)  # fmt: skip
def test_token_ids_as_names_of_an_object(name: str, token_id: int | None) -> None:
    assert token_id_of_name(name) == token_id
