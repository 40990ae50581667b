# SPDX-License-Identifier: Apache-2.0
"""The Python writer and the C++ one of the tests give the same bytes.

`tiny.engine` is written by tests/cpp/support (from docs/engine-format.md alone) and read by the
runtime as `tiny.json` says; here it is written again from that description.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.engine.container import (
    Header,
    Section,
    bytes_section,
    write_container,
)
from enginery.builder.engine.program import Attribute, Buffer, Operand, Program, Step, Tensor
from enginery.builder.engine.token_bytes import encode_token_bytes
from enginery.builder.tokenizer.vocabulary import TokenText

GOLDEN = Path(__file__).parent
ENGINE = GOLDEN / "tiny.engine"
DESCRIPTION: dict[str, Any] = json.loads((GOLDEN / "tiny.json").read_text())

TOKENS = [
    TokenText(b"<s>", is_special=True),
    TokenText(b"</s>", is_special=True),
    TokenText(b"", is_unused=True),
    TokenText(b"a"),
    TokenText(b" b"),
    TokenText("é".encode()),
    TokenText(b"\xe2\x82"),  # two thirds of a character
    TokenText(b"\xac"),  # and the rest
    TokenText(b"\n"),
    TokenText(b"the"),
    TokenText(b'"'),
]


def _attributes(described: dict[str, Any]) -> dict[str, Attribute]:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in described.items()
    }


def _program() -> Program:
    tensors = {
        tensor["name"]: Tensor(
            tensor["name"], tensor["dtype"], tensor["layout"], tuple(tensor["shape"])
        )
        for tensor in DESCRIPTION["tensors"]
    }
    buffers = {
        value["name"]: Buffer(value["name"], value["dtype"], value["rows"], value["columns"])
        for value in DESCRIPTION["values"]
    }

    named: dict[str | None, Operand] = {None: None, **tensors, **buffers}
    steps = tuple(
        Step(
            op=step["op"],
            inputs=tuple(named[name] for name in step["inputs"]),
            outputs=tuple(buffers[name] for name in step["outputs"]),
            attributes=_attributes(step["attributes"]),
            version=step["version"],
        )
        for step in DESCRIPTION["steps"]
    )
    return Program(
        attributes=_attributes(DESCRIPTION["attributes"]),
        tensors=tuple(tensors.values()),
        buffers=tuple(buffers.values()),
        steps=steps,
    )


def _weights() -> bytes:
    section = next(entry for entry in DESCRIPTION["sections"] if entry["name"] == "weights")
    return ENGINE.read_bytes()[section["offset"] : section["offset"] + section["bytes"]]


def _write(path: Path, program: Program) -> bytes:
    described = DESCRIPTION["header"]
    header = Header(
        target=described["target"],
        sku=described["sku"],
        variant=described["variant"],
        tp_size=described["tp_size"],
        tp_rank=described["tp_rank"],
        builder_version=described["builder_version"],
    )
    weights = _weights()
    sections = [
        bytes_section("program", program.encode(weights_section=2)),
        bytes_section("token_bytes", encode_token_bytes(TOKENS)),
        Section("weights", len(weights), lambda: [weights], flags=0),
    ]
    write_container(path, header, sections)
    return path.read_bytes()


def test_python_writes_the_golden_engine(tmp_path: Path) -> None:
    """Header, section table, program, token bytes and checksums, byte by byte."""
    assert _write(tmp_path / "rank0.engine", _program()) == ENGINE.read_bytes()


def test_python_places_tensors_as_the_golden_engine_has_them() -> None:
    """Offsets and sizes, padding of the panels included."""
    program = _program()
    placed = [
        (tensor.name, offset, tensor.num_bytes)
        for tensor, offset in zip(program.tensors, program.tensor_offsets(), strict=True)
    ]
    assert placed == [
        (tensor["name"], tensor["offset"], tensor["bytes"]) for tensor in DESCRIPTION["tensors"]
    ]
    assert program.weight_bytes() == len(_weights())


@pytest.mark.parametrize("change", ["attribute", "step", "token"])
def test_a_difference_would_be_seen(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above can fail."""
    program = _program()
    if change == "attribute":
        program = replace(program, attributes={**program.attributes, "num_layers": 2})
    elif change == "step":
        program = replace(program, steps=program.steps[:-1])
    else:
        monkeypatch.setitem(globals(), "TOKENS", TOKENS[:-1])
    assert _write(tmp_path / "rank0.engine", program) != ENGINE.read_bytes()
