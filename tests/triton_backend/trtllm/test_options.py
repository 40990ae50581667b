# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.trtllm.options import (
    BlsOptions,
    TextOptions,
    TrtllmOptions,
    read_tensorrt_llm_parameters,
    tensorrt_llm_parameters,
    text_parameters,
)

MODEL = ModelOptions("/engines/a", "/tokenizers/b", runtime=RuntimeOptions(max_batch_size=4))


@pytest.mark.parametrize("excludes_input", [True, False])
def test_tensorrt_llm_round_trip(excludes_input: bool) -> None:
    parameters = tensorrt_llm_parameters(TrtllmOptions(MODEL, excludes_input=excludes_input))
    # It takes token ids and has no use for the tokenizer.
    model = replace(MODEL, tokenizer_dir="")
    assert read_tensorrt_llm_parameters(parameters) == (model, excludes_input)


@pytest.mark.parametrize("is_on", [True, False])
def test_text_round_trip(is_on: bool) -> None:
    parameters = text_parameters(TrtllmOptions(MODEL), "skip_special_tokens", is_on)
    read = TextOptions.from_parameters(parameters, "skip_special_tokens")
    assert read == TextOptions("/engines/a", "/tokenizers/b", is_on)


def test_the_tokenizer_is_the_engines_own() -> None:
    parameters = text_parameters(TrtllmOptions(ModelOptions("/engines/a")), "x", True)
    assert TextOptions.from_parameters(parameters, "x").tokenizer_dir == "/engines/a"
    assert TextOptions.from_parameters({"engine_dir": "e"}, "x").tokenizer_dir == "e"


def test_text_problems_are_listed() -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        TextOptions.from_parameters({"skip": "1", "x": "maybe"}, "x")
    message = str(raised.value)
    assert "3 problems" in message
    assert "skip = '1': there is no such parameter; there are engine_dir, tokenizer_dir" in message
    assert "engine_dir: is missing" in message
    assert "x = 'maybe': must be true or false" in message


def test_tensorrt_llm_problems() -> None:
    with pytest.raises(InvalidArgumentError, match="exclude_input_in_output = 'no': must be"):
        read_tensorrt_llm_parameters({"engine_dir": "e", "exclude_input_in_output": "no"})
    with pytest.raises(InvalidArgumentError, match="gpt_model_path = "):
        read_tensorrt_llm_parameters({"engine_dir": "e", "gpt_model_path": "x"})


@pytest.mark.parametrize("accumulates", [True, False])
def test_bls_round_trip(accumulates: bool) -> None:
    options = BlsOptions("llm", accumulates)
    assert BlsOptions.from_parameters(options.to_parameters()) == options
    assert BlsOptions.from_parameters({}) == BlsOptions()


def test_bls_problems() -> None:
    parameters = {"tensorrt_llm_model_name": "", "accumulate_tokens": "x", "draft": "y"}
    with pytest.raises(InvalidArgumentError) as raised:
        BlsOptions.from_parameters(parameters)
    message = str(raised.value)
    assert "3 problems" in message
    assert "draft = 'y': there is no such parameter; there are tensorrt_llm_model_name" in message
    assert "accumulate_tokens = 'x': must be true or false" in message
    assert "tensorrt_llm_model_name: is empty" in message
