# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc import model_config_pb2

from enginery.triton_backend.pbtxt import Message, Symbol, to_pbtxt


def test_layout() -> None:
    message: Message = {
        "name": "llm",
        "max_batch_size": 0,
        "policy": {"decoupled": True},
        "input": [{"name": "a", "dims": [1, -1]}, {"name": "b", "kind": Symbol("KIND_CPU")}],
        "empty": [],
    }
    assert to_pbtxt(message) == (
        'name: "llm"\n'
        "max_batch_size: 0\n"
        "policy {\n"
        "  decoupled: true\n"
        "}\n"
        "input {\n"
        '  name: "a"\n'
        "  dims: [ 1, -1 ]\n"
        "}\n"
        "input {\n"
        '  name: "b"\n'
        "  kind: KIND_CPU\n"
        "}\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        'quote " and \\ backslash',
        "line\nbreak\r\ttab",
        "\x00\x01\x7f",
        "café, 模型, 🙂",
        '"} name: "injected',
        "\\n",
        "${placeholder}",
    ],
)
def test_any_text_comes_back(text: str) -> None:
    parsed = text_format.Parse(
        to_pbtxt({"parameters": [{"key": "k", "value": {"string_value": text}}]}),
        model_config_pb2.ModelConfig(),
    )
    assert parsed.parameters["k"].string_value == text
    assert parsed.name == ""
