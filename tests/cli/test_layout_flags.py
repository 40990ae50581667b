# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse

import pytest

from enginery.cli.layout_flags import add_layout_flags, layout_options
from enginery.runtime.errors import InvalidArgumentError
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.trtllm.options import BlsOptions, TrtllmOptions

MODEL = ModelOptions("/engines/demo")


def options(*flags: str) -> ModelOptions | TrtllmOptions:
    parser = argparse.ArgumentParser()
    add_layout_flags(parser.add_argument_group("server"))
    return layout_options(parser.parse_args(flags), MODEL)


def test_one_model_unless_told() -> None:
    assert options() == options("--layout", "enginery") == MODEL


def test_tensorrt_llm() -> None:
    assert options("--layout", "tensorrt_llm") == TrtllmOptions(MODEL)
    assert options(
        "--layout", "tensorrt_llm", "--decoupled_mode", "false", "--exclude_input_in_output",
        "--accumulate_tokens",
    ) == TrtllmOptions(
        MODEL, is_decoupled=False, excludes_input=True, bls=BlsOptions(accumulates_tokens=True)
    )  # fmt: skip


@pytest.mark.parametrize(
    "flags", [["--decoupled_mode", "true"], ["--exclude_input_in_output"], ["--accumulate_tokens"]]
)
def test_flags_of_the_other_layout(flags: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        options(*flags)
    assert f"{flags[0]}: belongs to --layout tensorrt_llm" in str(raised.value)
