# SPDX-License-Identifier: Apache-2.0
"""Networks as segments and steps, against what the contract of the target says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginery.builder.build import plan_build
from enginery.builder.errors import OptionError
from enginery.builder.network.network import Value
from enginery.builder.options import BuildRequest
from enginery.builder.sharding.mapping import Mapping
from enginery.builder.sharding.shard import shard
from enginery.builder.targets.tensorrt.cut import CutNetwork, cut
from enginery.builder.targets.tensorrt.segment import SegmentNode, SegmentType, SegmentValue
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.extra_nodes import add_factors, builds_with, with_factors
from tests.support.scales import add_scales


def cut_tiny(
    directory: Path, family: str = "llama", rank: int = 0, *, num_layers: int = 3, **options: Any
) -> CutNetwork:
    """Cuts a rank of a tiny checkpoint; `options` also go to the checkpoint where it has them."""
    checkpoint = {name: options.pop(name) for name in ("tie", "sliding_window") if name in options}
    write_tiny_checkpoint(directory, family, num_layers=num_layers, **checkpoint)
    return cut_checkpoint(directory, rank, **options)


def cut_checkpoint(directory: Path, rank: int = 0, **options: Any) -> CutNetwork:
    """Cuts a rank of a checkpoint that is there."""
    add_scales(directory, options.get("qformat", ""), options.get("kv_cache_dtype", ""))
    planned = plan_build(BuildRequest(directory, sku="h100", **options))
    mapping = Mapping(planned.options.tp_size, rank)
    return cut(shard(planned.network, mapping), planned.options)


def segment_of(network: CutNetwork, name: str) -> SegmentType:
    return {segment.name: segment for segment in network.segments}[name]


def node_of(segment: SegmentType, output: str) -> SegmentNode:
    return {node.output.name: node for node in segment.nodes}[output]


def ops(network: CutNetwork) -> list[str]:
    return [step.op for step in network.steps]


def run(network: CutNetwork) -> list[str]:
    return [str(s.attributes["segment"]) for s in network.steps if s.op == "run_segment"]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_whole_model_has_four_types_and_layers_share_one(tmp_path: Path, family: str) -> None:
    network = cut_tiny(tmp_path, family, num_layers=4)
    assert [segment.name for segment in network.segments] == ["first", "middle", "last", "head"]
    assert run(network) == ["first", "middle", "middle", "middle", "last", "head"]
    assert ops(network) == [
        "embed",
        *["run_segment", "kv_append", "paged_attention"] * 4,
        "run_segment",
        "gather_rows",
        "run_segment",
    ]


def test_a_model_of_one_layer_has_no_middle(tmp_path: Path) -> None:
    assert run(cut_tiny(tmp_path, num_layers=1)) == ["first", "last", "head"]


def test_the_middle_segment_of_a_qwen2(tmp_path: Path) -> None:
    middle = segment_of(cut_tiny(tmp_path, "qwen2"), "middle")
    nodes = [(n.op, n.inputs, n.output.dtype, n.output.columns) for n in middle.nodes]
    mlp_norm = "post_attention_layernorm"
    assert nodes == [
        ("linear", ("attention", "o_proj.weight", None, None, "x"), "f32", 128),
        ("rms_norm", ("attention_residual", f"{mlp_norm}.norm", None), "bf16", 128),
        ("linear", (mlp_norm, "gate_up_proj.weight", None, None, None), "f32", 512),
        ("silu_mul", ("gate_up_proj", None), "bf16", 256),
        ("linear", ("swiglu", "down_proj.weight", None, None, "attention_residual"), "f32", 128),
        ("rms_norm", ("x_out", "input_layernorm.norm", None), "bf16", 128),
        (
            "linear",
            ("input_layernorm", "qkv_proj.weight", None, "qkv_proj.bias", None),
            "bf16",
            256,
        ),
    ]  # fmt: skip
    assert middle.values == (
        SegmentValue("attention", "bf16", "tokens", 128),
        SegmentValue("x", "f32", "tokens", 128),
    )
    assert middle.outputs == (
        SegmentValue("x_out", "f32", "tokens", 128),
        SegmentValue("qkv", "bf16", "tokens", 256),
    )
    assert {(t.name, t.dtype, t.shape, t.role, t.owner) for t in middle.tensors} >= {
        ("gate_up_proj.weight", "bf16", (512, 128), "weight", "gate_up_proj"),
        ("input_layernorm.norm", "f32", (128,), "norm", "input_layernorm"),
        ("qkv_proj.bias", "f32", (256,), "bias", "qkv_proj"),
    }
    assert {node.epsilon for node in middle.nodes} == {0.0, 1e-6}


@pytest.mark.parametrize(("qformat", "code"), [("fp8", "f8e4m3"), ("int8_sq", "i8")])
def test_activations_are_quantised_by_what_computes_them(
    tmp_path: Path, qformat: str, code: str
) -> None:
    network = cut_tiny(tmp_path, qformat=qformat)
    middle = segment_of(network, "middle")
    assert [(node.op, node.inputs[-1], node.output.dtype) for node in middle.nodes[:5]] == [
        ("quantize", "o_proj.inverse", code),
        ("linear", "x", "f32"),
        ("rms_norm", "gate_up_proj.inverse", code),
        ("linear", None, "f32"),
        ("silu_mul", "down_proj.inverse", code),
    ]
    qkv = node_of(middle, "qkv")
    assert qkv.scheme == qformat and qkv.output.dtype == "bf16"
    tensors = {tensor.name: (tensor.dtype, tensor.shape) for tensor in middle.tensors}
    assert tensors["qkv_proj.weight"] == (code, (256, 128))
    assert tensors["qkv_proj.scale"] == ("f32", (256,))
    assert tensors["qkv_proj.inverse"] == ("f32", (1,))
    # No codes leave a segment.
    passed = [value for step in network.steps for value in step.outputs]
    assert {value.dtype for value in passed} == {"f32", "bf16"}
    # The output projection stays in the build dtype.
    (norm, head) = segment_of(network, "head").nodes
    assert (head.scheme, norm.inputs[2], norm.output.dtype) == ("none", None, "bf16")


@pytest.mark.parametrize(
    ("qformat", "inverse", "dtype"),
    [("none", None, "bf16"), ("int8_sq", "o_proj.inverse", "i8"), ("int8_wo", None, "bf16")],
)
def test_attention_is_scaled_where_its_layer_reads_it(
    tmp_path: Path, qformat: str, inverse: str | None, dtype: str
) -> None:
    add_factors(write_tiny_checkpoint(tmp_path, "llama", num_layers=3))
    with builds_with("build_decoder", with_factors):
        network = cut_checkpoint(tmp_path, qformat=qformat)
        assert [segment.name for segment in network.segments] == ["first", "middle", "last", "head"]
        middle = segment_of(network, "middle")
        scaling, output = middle.nodes[:2]
        assert (scaling.op, scaling.inputs) == (
            "scale_columns", ("attention", "o_proj.factor", inverse),
        )  # fmt: skip
        assert scaling.output == SegmentValue("scaled", dtype, "tokens", 128)
        assert (output.op, output.inputs[0]) == ("linear", "scaled")
        factor = next(t for t in middle.tensors if t.name == "o_proj.factor")
        assert (factor.dtype, factor.shape, factor.role) == ("f32", (128,), "factor")
        # Attention passes between steps as without.
        assert middle.values[0] == SegmentValue("attention", "bf16", "tokens", 128)

        network = cut_checkpoint(tmp_path, 1, qformat=qformat, tp_size=2)
        assert network.segments[1].name == "output"
        shapes = {tensor.name: tensor.shape for tensor in network.segments[1].tensors}
        assert (shapes["o_proj.factor"], shapes["o_proj.weight"]) == ((64,), (128, 64))


@pytest.mark.parametrize(
    ("qformat", "code", "scale", "head"),
    [("int8_wo", "i8", (256,), "int8_wo"), ("int4_wo", "i4", (256, 1), "none")],
)
def test_weight_only_schemes_leave_activations_alone(
    tmp_path: Path, qformat: str, code: str, scale: tuple[int, ...], head: str
) -> None:
    network = cut_tiny(tmp_path, qformat=qformat, dtype="float16")
    first = segment_of(network, "first")
    tensors = {tensor.name: (tensor.dtype, tensor.shape) for tensor in first.tensors}
    assert tensors["qkv_proj.weight"] == (code, (256, 128))
    assert tensors["qkv_proj.scale"] == ("f16", scale)
    assert "qkv_proj.inverse" not in tensors
    assert [node.output.dtype for node in first.nodes] == ["f16", "f16"]
    assert first.nodes[1].scheme == qformat
    assert segment_of(network, "head").nodes[1].scheme == head


def test_a_tied_embedding_is_read_as_the_output_projection_is_stored(tmp_path: Path) -> None:
    network = cut_tiny(tmp_path, tie=True, qformat="int8_wo")
    weight, scale = network.steps[0].inputs
    head = network.steps[-1]
    assert head.inputs[2:] == (weight, scale)
    assert [tensor.name for tensor in segment_of(network, "head").tensors[1:]] == [
        "lm_head.weight", "lm_head.scale",
    ]  # fmt: skip


def test_two_ranks_sum_between_segments(tmp_path: Path) -> None:
    network = cut_tiny(tmp_path, rank=1, tp_size=2)
    assert [segment.name for segment in network.segments] == [
        "first", "output", "mlp", "input", "residual", "head",
    ]  # fmt: skip
    layer = ["kv_append", "paged_attention", "run_segment", "all_reduce", "run_segment"]
    assert ops(network) == [
        "embed", "run_segment", *([*layer, "all_reduce", "run_segment"] * 3),
        "gather_rows", "run_segment", "all_gather",
    ]  # fmt: skip
    mlp = segment_of(network, "mlp")
    assert [value.name for value in mlp.values] == ["x", "partial"]
    assert [(out.name, out.dtype) for out in mlp.outputs] == [
        ("x_out", "f32"),
        ("partial_out", "f32"),
    ]
    assert mlp.nodes[0].op == "add" and mlp.nodes[0].inputs == ("x", "partial")
    head = segment_of(network, "head")
    assert [(out.name, out.columns) for out in head.outputs] == [("logits_part", 160)]


def test_only_the_first_rank_adds_a_bias_of_a_row_parallel_layer(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, "llama", config_overrides={"mlp_bias": True})
    planned = plan_build_of_config(tmp_path, tp_size=2)
    names = []
    for rank in range(2):
        network = cut(shard(planned.network, Mapping(2, rank)), planned.options)
        names.append([tensor.name for tensor in segment_of(network, "mlp").tensors])
    assert "down_proj.bias" in names[0] and "down_proj.bias" not in names[1]
    assert all("gate_up_proj.bias" in of_rank for of_rank in names)


def plan_build_of_config(directory: Path, **options: Any) -> Any:
    """A plan of the configuration alone."""
    (directory / "model.safetensors").unlink()
    return plan_build(BuildRequest(directory, sku="h100", **options))


@pytest.mark.parametrize("kv_cache_dtype", ["fp8", "int8"])
def test_scales_of_the_kv_cache_go_to_both_steps_that_use_it(
    tmp_path: Path, kv_cache_dtype: str
) -> None:
    network = cut_tiny(tmp_path, "qwen3", kv_cache_dtype=kv_cache_dtype, sliding_window=64)
    append, attention = network.steps[5:7]
    assert (append.op, attention.op) == ("kv_append", "paged_attention")
    names = [getattr(item, "name", None) for item in append.inputs[1:]]
    assert names == [
        "rope.inv_freq",
        "model.layers.1.self_attn.q_norm.weight",
        "model.layers.1.self_attn.k_norm.weight",
        "layers.1.k_scale",
        "layers.1.v_scale",
    ]
    assert attention.inputs[1:] == append.inputs[4:]
    assert append.attributes == {"layer": 1, "rope_scale": 1.0, "epsilon": 1e-6}
    assert attention.attributes == {"layer": 1, "scale": 32**-0.5, "sliding_window": 64}


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("qformat", ["none", "int8_wo", "int8_sq"])
def test_every_segment_and_step_is_consistent(tmp_path: Path, qformat: str, tp_size: int) -> None:
    network = cut_tiny(tmp_path, "qwen2", qformat=qformat, tp_size=tp_size)
    assert len(set(network.segments)) == len({s.name for s in network.segments})
    by_name = {segment.name: segment for segment in network.segments}
    alive: dict[str, Value] = {}
    for step in network.steps:
        values = [item for item in step.inputs if isinstance(item, Value)]
        assert all(alive.get(value.name) == value for value in values)
        alive |= {output.name: output for output in step.outputs}
        if step.op != "run_segment":
            continue
        segment = by_name[str(step.attributes["segment"])]
        assert len(step.inputs) == len(segment.inputs)
        for operand, item in zip(step.inputs, segment.inputs, strict=True):
            assert operand is not None and operand.dtype == item.dtype
            if isinstance(operand, Value):
                assert (operand.rows, operand.columns) == item.shape
            else:
                assert operand.shape == item.shape
        for output, item in zip(step.outputs, segment.outputs, strict=True):
            assert (output.dtype, output.rows, output.columns) == (item.dtype, *item.shape)
        known = {item.name for item in segment.inputs}
        for node in segment.nodes:
            assert {name for name in node.inputs if name is not None} <= known
            assert node.output.name not in known
            known.add(node.output.name)
        assert {output.name for output in segment.outputs} <= known


@pytest.mark.parametrize(
    ("checkpoint", "options", "message"),
    [
        (
            {"hidden_size": 160},
            {"qformat": "int4_wo"},
            "qformat: int4_wo scales blocks of 128 inputs; .* takes 160 .*int8_wo",
        ),
        (
            {},
            {"qformat": "int4_wo", "tp_size": 2},
            "o_proj takes 64 of a rank of 2 .*int8_wo, or another --tp-size",
        ),
        ({"intermediate_size": 200}, {}, "down_proj: takes 200 inputs; .* multiples of 16"),
        ({}, {"kv_cache_dtype": "float16"}, "kv_cache_dtype: 'float16' beside dtype bfloat16"),
    ],
)
def test_what_the_kernels_cannot_take_is_refused(
    tmp_path: Path, checkpoint: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    write_tiny_checkpoint(tmp_path, "llama", **checkpoint)
    with pytest.raises(OptionError, match=message):
        plan_build(BuildRequest(tmp_path, sku="h100", **options))
