# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.tensors import INPUTS, OUTPUTS

TYPES = {"STRING", "INT32", "INT64", "UINT64", "FP32", "BOOL"}


def test_names_are_unique() -> None:
    for specs in (INPUTS, OUTPUTS):
        names = [spec.name for spec in specs]
        assert len(names) == len(set(names))


def test_options_are_those_of_sampling_params() -> None:
    options = [spec.option for spec in INPUTS if spec.option is not None]
    assert len(options) == len(set(options))
    assert set(options) <= {field.name for field in dataclasses.fields(SamplingParams)}


def test_every_input_can_be_left_out() -> None:
    assert all(spec.is_optional for spec in INPUTS)


def test_types_and_shapes_are_ones_the_model_reads() -> None:
    for spec in (*INPUTS, *OUTPUTS):
        assert spec.data_type in TYPES
        assert spec.dims in ((1,), (-1,))
        assert spec.doc


def test_names_of_other_servers_clients() -> None:
    inputs = {spec.name for spec in INPUTS}
    ensemble = {"text_input", "max_tokens", "bad_words", "stop_words", "end_id", "top_k", "top_p"}
    ensemble |= {"temperature", "repetition_penalty", "min_tokens", "presence_penalty"}
    ensemble |= {"frequency_penalty", "seed", "return_log_probs", "stream"}
    assert ensemble <= inputs
    assert {"text_input", "stream", "sampling_parameters", "exclude_input_in_output"} <= inputs
    assert "text_output" in {spec.name for spec in OUTPUTS}
