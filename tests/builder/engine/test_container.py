# SPDX-License-Identifier: Apache-2.0
"""Engine files as bytes: what is written is what the format says, always the same."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.builder.engine.container import Header, Section, bytes_section, write_container
from enginery.builder.engine.program import Buffer, Program, Step, Tensor
from enginery.builder.engine.token_bytes import encode_token_bytes
from enginery.builder.tokenizer.vocabulary import UNUSED, TokenText
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import Engine, StepRecord, TensorRecord, read_engine
from tests.support.engines import build_tiny

GOLDEN = Path(__file__).parents[2] / "golden" / "engine"

# Small, and with everything that a program can have: tied and quantised embedding, biases.
GOLDEN_CHECKPOINT: dict[str, Any] = {
    "family": "qwen2", "hidden_size": 24, "num_heads": 3, "num_kv_heads": 1, "num_layers": 1,
    "intermediate_size": 20, "tie": True, "dtype": "bfloat16", "sliding_window": 40,
}  # fmt: skip


# A second group of inputs in down_proj, shorter than the first, and an embedding of its own.
INT4_CHECKPOINT = GOLDEN_CHECKPOINT | {"intermediate_size": 140, "tie": False}
GOLDEN_CHECKPOINTS = {"int8_dynamic": GOLDEN_CHECKPOINT, "w4a8_dynamic": INT4_CHECKPOINT}


def build_golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qformat: str) -> bytes:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.0")
    model = write_tiny_checkpoint(tmp_path / "model", **GOLDEN_CHECKPOINTS[qformat])
    build_tiny(model, tmp_path / "engine", dtype="bfloat16", qformat=qformat)
    return (tmp_path / "engine" / "rank0.engine").read_bytes()


@pytest.mark.parametrize("qformat", GOLDEN_CHECKPOINTS)
def test_the_golden_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qformat: str) -> None:
    """Bytes change with the format version or where programs are meant to be others.

    Engines in the field must stay readable.
    """
    path = GOLDEN / f"qwen2_{qformat}.engine"
    built = build_golden(tmp_path, monkeypatch, qformat)
    assert built == path.read_bytes(), f"{path} is no longer written"


def test_the_golden_engine_read_back() -> None:
    engine = read_engine(GOLDEN / "qwen2_int8_dynamic.engine")
    assert engine.header["sku"] == engine.header["target"] == "cpu"
    assert [section.name for section in engine.sections] == ["program", "token_bytes", "weights"]
    assert engine.attributes["architecture"] == "Qwen2ForCausalLM"
    assert engine.attributes["eos_token_ids"] == (315,)
    assert [step.op for step in engine.steps] == [
        "embed", "rms_norm", "linear", "kv_append", "gather_rows", "linear", "paged_attention",
        "gather_rows", "linear", "rms_norm", "linear", "silu_mul", "linear", "rms_norm", "linear",
    ]  # fmt: skip
    embed, head = engine.steps[0], engine.steps[-1]
    assert embed.inputs[0] is head.inputs[1], "a tied embedding is stored once"
    assert head.outputs[0].name == "logits" and head.outputs[0].columns == 320


def test_the_golden_engine_in_int4_read_back() -> None:
    engine = read_engine(GOLDEN / "qwen2_w4a8_dynamic.engine")
    assert engine.attributes["qformat"] == "w4a8_dynamic"
    linears = [step for step in engine.steps if step.op == "linear"]
    assert [step.version for step in linears] == [2, 2, 2, 2, 2, 1]
    down = [tensor for tensor in linears[4].inputs if isinstance(tensor, TensorRecord)]
    assert [(t.dtype, t.layout, t.shape) for t in down] == [
        ("i4", "n16k8", (24, 140)), ("f32", "rows", (24,)), ("i32", "rows", (24,)),
        ("i8", "n16k1", (24, 2)),
    ]  # fmt: skip
    names = [tensor.name for tensor in engine.tensors]
    first = names.index("model.layers.0.mlp.down_proj.weight")
    assert names[first : first + 4] == [tensor.name for tensor in down], "the order in the file"
    embedding, scale = engine.steps[0].inputs
    assert isinstance(embedding, TensorRecord) and isinstance(scale, TensorRecord)
    assert (embedding.dtype, embedding.layout) == ("i8", "rows")
    head = linears[5].inputs[1]
    assert isinstance(head, TensorRecord) and (head.dtype, head.layout) == ("i8", "n16k4")


@pytest.mark.parametrize("qformat", ["int8_wo", "w4a8_dynamic"])
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, qformat: str) -> None:
    model = write_tiny_checkpoint(
        tmp_path / "model", "qwen3", dtype="bfloat16", num_heads=8, head_dim=32
    )
    for name in ("a", "b"):
        build_tiny(model, tmp_path / name, qformat=qformat, tp_size=2)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def write_program(path: Path, program: Program, tokens: list[TokenText]) -> Engine:
    weights = bytes(range(256)) * (program.weight_bytes() // 256 + 1)
    header = Header("cpu", "some-sku", "x86-64", tp_size=3, tp_rank=2, builder_version="9.9")
    write_container(
        path,
        header,
        [
            bytes_section("program", program.encode(weights_section=2)),
            bytes_section("token_bytes", encode_token_bytes(tokens)),
            Section(
                "weights",
                program.weight_bytes(),
                lambda: [weights[:77], memoryview(weights)[77 : program.weight_bytes()]],
                alignment=4096,
            ),
        ],
    )
    return read_engine(path)


def test_everything_a_program_can_hold_is_read_back(tmp_path: Path) -> None:
    rows = Tensor("scale", "f32", "rows", (3,))
    cube = Tensor("cube", "i32", "rows", (2, 3, 4))
    packed = Tensor("wéight", "bf16", "rows", (17, 5))
    x, y = Buffer("x", "f32", "tokens", 5), Buffer("y", "i8", "logits", 3)
    attributes: dict[str, Any] = {
        "integer": -(1 << 62), "number": 0.1, "text": "x86-64", "none": (), "integers": (1, -2),
        "numbers": (0.5, -1e300),
    }  # fmt: skip
    program = Program(
        attributes,
        (rows, cube, packed),
        (x, y),
        (
            Step("first", (x, None, packed), (y,), {"scale": 2.0}),
            Step("second", (), (x, y), {}, version=7),
        ),
    )
    tokens = [TokenText(b"a"), TokenText(b"", is_special=True), UNUSED, TokenText("日".encode())]
    engine = write_program(tmp_path / "x.engine", program, tokens)
    assert engine.attributes == attributes
    assert [(t.name, t.dtype, t.shape) for t in engine.tensors] == [
        ("scale", "f32", (3,)), ("cube", "i32", (2, 3, 4)), ("wéight", "bf16", (17, 5)),
    ]  # fmt: skip
    assert [tensor.offset for tensor in engine.tensors] == [0, 64, 192]
    assert engine.tensor("cube").array[1, 2, 3] == np.frombuffer(
        bytes(range(64 + 23 * 4, 64 + 24 * 4)), np.int32
    )
    first, second = engine.steps
    assert isinstance(first, StepRecord) and first.inputs[1] is None
    assert (first.attributes, second.attributes) == ({"scale": 2.0}, {})
    assert (second.version, [output.name for output in second.outputs]) == (7, ["x", "y"])
    assert engine.tokens == [(b"a", 0), (b"", 1), (b"", 2), ("日".encode(), 0)]
    assert (engine.header["tp_size"], engine.header["tp_rank"]) == (3, 2)
    assert engine.sections[2].offset % 4096 == 0


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 33])
@pytest.mark.parametrize("depth", [1, 3, 4, 5])
def test_sizes_of_packed_tensors(num_rows: int, depth: int) -> None:
    panels = -(-num_rows // 16) * 16
    for layout, dtype, group, item_bytes in (
        ("n16k1", "f32", 1, 4), ("n16k1", "i8", 1, 1), ("n16k2", "bf16", 2, 2),
        ("n16k4", "i8", 4, 1), ("n16k8", "i4", 8, 0.5),
    ):  # fmt: skip
        padded = -(-depth // group) * group
        tensor = Tensor("w", dtype, layout, (num_rows, depth))
        assert tensor.num_bytes == panels * padded * item_bytes


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_program(path, Program({}, (), (), ()), [])
    assert path.read_bytes() == b"precious"


def test_a_section_that_yields_too_little_is_caught(tmp_path: Path) -> None:
    header = Header("cpu", "cpu", "x86-64", 1, 0, "1")
    with pytest.raises(AssertionError, match="2 of 3 bytes"):
        write_container(tmp_path / "x", header, [Section("weights", 3, lambda: [b"ab"])])
