# SPDX-License-Identifier: Apache-2.0
"""Steps and buffers of a `tensorrt` program."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginery.builder.build import plan_build
from enginery.builder.engine.program import Buffer, Program, Tensor
from enginery.builder.network.network import Value
from enginery.builder.options import BuildRequest
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import shard
from enginery.builder.targets.tensorrt.cut import cut
from enginery.builder.targets.tensorrt.steps import lower_steps
from enginery.builder.targets.tensorrt.weights import Weights
from tests.support.checkpoints import write_tiny_checkpoint

IN_PLACE = ("kv_append", "all_reduce")


def program_of(directory: Path, family: str, tp_size: int, num_layers: int) -> Program:
    write_tiny_checkpoint(directory, family, num_layers=num_layers)
    planned = plan_build(BuildRequest(directory, sku="h100", tp_size=tp_size))
    return planned.payloads[-1].program


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_every_step_finds_what_it_reads(tmp_path: Path, tp_size: int, num_layers: int) -> None:
    """Runs the program on the names of values in place of matrices."""
    write_tiny_checkpoint(tmp_path, "qwen3", num_layers=num_layers)
    planned = plan_build(BuildRequest(tmp_path, sku="h100", tp_size=tp_size))
    network = cut(shard(planned.network, Mapping(tp_size, 0)), planned.options)
    tensors = Weights(network, planned.config, planned.options).tensors
    buffers, steps = lower_steps(network, tensors)
    held: dict[Buffer, str] = {}
    for before, step in zip(network.steps, steps, strict=True):
        assert (before.op, before.attributes) == (step.op, step.attributes)
        for value, operand in zip(before.inputs, step.inputs, strict=True):
            if isinstance(value, Value):
                assert isinstance(operand, Buffer) and held[operand] == value.name
                assert (operand.dtype, operand.rows, operand.columns) == (
                    value.dtype, value.rows, value.columns,
                )  # fmt: skip
            else:
                assert operand is (None if value is None else tensors[value])
        for value, buffer in zip(before.outputs, step.outputs, strict=True):
            assert (buffer in step.inputs) == (step.op in IN_PLACE)
            held[buffer] = value.name
    assert set(held) == set(buffers)


def test_the_number_of_buffers_does_not_grow_with_the_layers(tmp_path: Path) -> None:
    few = program_of(tmp_path / "few", "llama", 1, 2)
    many = program_of(tmp_path / "many", "llama", 1, 9)
    assert few.buffers == many.buffers
    assert {(b.name, b.dtype, b.rows, b.columns) for b in few.buffers} == {
        ("x", "f32", "tokens", 128),
        ("x.2", "f32", "tokens", 128),
        ("qkv", "bf16", "tokens", 256),
        ("attention", "bf16", "tokens", 128),
        ("last_rows", "f32", "logits", 128),
        ("logits", "f32", "logits", 320),
    }


def test_the_logits_of_two_ranks_are_gathered_into_logits(tmp_path: Path) -> None:
    last = program_of(tmp_path, "llama", 2, 2).steps[-1]
    (part,), (logits,) = last.inputs, last.outputs
    assert last.op == "all_gather"
    assert part == Buffer("logits_part", "f32", "logits", 160)
    assert logits == Buffer("logits", "f32", "logits", 320)


def test_an_engine_program_encodes_the_new_dtypes(tmp_path: Path) -> None:
    packed = Tensor("w", "i4", "rows", (3, 256))
    assert packed.num_bytes == 3 * 128
    assert Tensor("w", "f8e4m3", "rows", (3, 17)).num_bytes == 51
    program = Program({"dtype": "float16"}, (packed,), (Buffer("x", "f16", "tokens", 4),), ())
    assert b"i4" in program.encode(2) and program.weight_bytes() == 384


def test_attributes(tmp_path: Path) -> None:
    program = program_of(tmp_path, "qwen2", 2, 2)
    expected = {
        "dtype": "bfloat16", "qformat": "none", "kv_cache_dtype": "bfloat16",
        "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "num_layers": 2,
    }  # fmt: skip
    assert {name: program.attributes[name] for name in expected} == expected
