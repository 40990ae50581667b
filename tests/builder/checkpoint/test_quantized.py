# SPDX-License-Identifier: Apache-2.0
"""What calibration left in a checkpoint: codes, factors, and the layers that it left alone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError, ConfigError, OptionError
from enginery.builder.network.weight import Blocks
from enginery.builder.options import BuildRequest
from enginery.builder.targets.code_rows import dequantised_rows
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.modelopt_checkpoints import store_smoothed
from tests.support.quantized_checkpoints import quantize_checkpoint
from tests.support.scales import change_tensors, read_tensors

LAYER = "model.layers.1."
FACTOR = f"{LAYER}self_attn.k_proj.pre_quant_scale"


def plan(model: Path, **options: Any) -> PlannedBuild:
    return plan_build(BuildRequest(model=model, **options))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model", "llama")


@pytest.fixture
def smoothed(model: Path) -> Path:
    store_smoothed(model, "W8A8_SQ_PER_CHANNEL")
    return model


@pytest.mark.parametrize("algorithm", ["W8A8_SQ_PER_CHANNEL", "W4A16_AWQ"])
def test_codes_are_one_tensor_of_their_values(model: Path, algorithm: str) -> None:
    meant = store_smoothed(model, algorithm)
    config = plan(model).config
    with Checkpoint(model, config.stored_as) as checkpoint:
        assert checkpoint.stored.keys() == meant.keys()
        for name, values in meant.items():
            assert checkpoint.tensors[name].shape == values.shape
            factor = checkpoint.pre_quant_scale(name)
            assert factor is not None
            found = checkpoint.read_float32(name)
            np.testing.assert_allclose(found * factor, values, rtol=1e-6)
            part = checkpoint.read_float32(name, slice(3, 8), slice(1, -1))
            assert np.array_equal(part, found[3:8, 1:-1])


@pytest.mark.parametrize(
    ("algorithm", "qformat"),
    [
        ("W8A8_SQ_PER_CHANNEL", "int8_sq"),
        ("W4A16_AWQ", "int4_awq"),
        ("W4A8_AWQ", "w4a8_awq"),
    ],
)
def test_the_scheme_is_that_of_the_codes(model: Path, algorithm: str, qformat: str) -> None:
    store_smoothed(model, algorithm)
    assert plan(model).options.qformat == qformat
    assert plan(model).notes == ()
    assert plan(model, qformat="none").options.qformat == "none"


def test_modelopts_own_file_says_it_too(model: Path) -> None:
    store_smoothed(model, "W4A16_AWQ")
    config = json.loads((model / "config.json").read_text())
    del config["quantization_config"]
    (model / "config.json").write_text(json.dumps(config))
    own = {"quantization": {"quant_algo": "W4A16_AWQ", "kv_cache_quant_algo": None}}
    (model / "hf_quant_config.json").write_text(json.dumps(own))
    assert plan(model).options.qformat == "int4_awq"
    (model / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(ConfigError, match=r"quant_algo: 'NVFP4' of modelopt is not supported"):
        plan(model)


def test_the_kv_cache_is_what_was_calibrated(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "modelopt", "quant_algo": "", "kv_cache_scheme": {"type": "float"},
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    assert plan(model).options.kv_cache_dtype == "fp8"
    assert plan(model, kv_cache_dtype="bfloat16").options.kv_cache_dtype == "bfloat16"


def test_factors_of_layers_with_one_input_must_be_equal(smoothed: Path) -> None:
    factor = np.ones(128, np.float32)
    change_tensors(smoothed, **{FACTOR: (factor, "F32")})
    with pytest.raises(CheckpointError, match=r"k_proj\.pre_quant_scale: differs from .*q_proj"):
        plan(smoothed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "k_proj.pre_quant_scale: is missing, though .*q_proj.pre_quant_scale is there"),
        ((np.ones(64, np.float32), "F32"), r"has shape \[64\]; \[128\] is expected"),
        ((np.ones(128, np.int32), "I32"), "has dtype I32"),
    ],
)
def test_factors_that_are_not_all_there(smoothed: Path, given: Any, message: str) -> None:
    change_tensors(smoothed, **{FACTOR: given})
    with pytest.raises(CheckpointError, match=message):
        plan(smoothed)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_factors_that_cannot_be(smoothed: Path, tmp_path: Path, value: float) -> None:
    from enginery.builder.build import build

    name = f"{LAYER}mlp.down_proj.pre_quant_scale"
    factor = np.ones(256, np.float32)
    factor[7] = value
    change_tensors(smoothed, **{name: (factor, "F32")})
    with pytest.raises(CheckpointError, match=f"{name}: is "):
        build(plan(smoothed, output=tmp_path / "engine"))
    assert not (tmp_path / "engine").exists()


def test_layers_that_the_checkpoint_leaves_alone_stay_so(model: Path) -> None:
    store_smoothed(model, "W4A16_AWQ")
    down, q = f"{LAYER}mlp.down_proj", f"{LAYER}self_attn.q_proj"
    values = {
        f"{name}.weight": (np.ones(shape, np.float32), "F32")
        for name, shape in ((down, (128, 256)), (q, (128, 128)))
    }
    change_tensors(model, **values, **{f"{name}.weight_scale": None for name in (down, q)})
    planned = plan(model)
    (note,) = planned.notes
    assert note.startswith(f"4 linear layers ({down}.weight, ...) stay in the build dtype")
    attention = [f"{LAYER}self_attn.{x}_proj" for x in "qkv"]
    assert planned.excluded_modules == (*attention, down)
    dtypes = {
        node.weight(1).name: node.weight(1).dtype
        for node in planned.network.nodes
        if node.op == "linear"
    }
    assert {name for name, dtype in dtypes.items() if dtype == "bf16"} == {
        f"{LAYER}self_attn.qkv_proj.weight", f"{down}.weight", "lm_head.weight",
    }  # fmt: skip


def test_modules_are_excluded_by_pattern(model: Path) -> None:
    planned = plan(model, qformat="int8_dynamic", exclude_modules=("lm_head", "layers.0.mlp.up_*"))
    mlp = "model.layers.0.mlp."
    assert planned.excluded_modules == (f"{mlp}gate_proj", f"{mlp}up_proj", "lm_head")
    values = {
        node.output.name: (node.value(0).dtype, node.weight(1).dtype)
        for node in planned.network.nodes
        if node.op == "linear"
    }
    assert values["layers.0.mlp.gate_up_proj"] == values["logits"] == ("bf16", "bf16")
    assert values["layers.1.mlp.gate_up_proj"] == ("i8", "i8")
    with pytest.raises(OptionError, match="exclude_modules: 'up' matches no linear layer"):
        plan(model, exclude_modules=("up", "o_proj"))


def test_int4_is_kept_or_refused(model: Path) -> None:
    with pytest.raises(CheckpointError, match="is not stored in INT4, nor are 13 more"):
        plan(model, qformat="int4_awq")
    store_smoothed(model, "W4A16_AWQ")
    name = f"{LAYER}mlp.up_proj.weight_scale"
    scale = np.ones((256, 8), np.float32)
    change_tensors(model, **{name: (scale, "F32")})
    with pytest.raises(CheckpointError) as error:
        plan(model)
    assert [str(problem) for problem in error.value.problems] == [
        (
            f"{LAYER}mlp.up_proj.weight: is stored in groups of 16 columns; int4_awq takes groups "
            "of whole blocks of consecutive columns: 128, 64, 32 (choose --qformat int8_wo or "
            "w4a8_dynamic, which quantise the values anew)"
        )
    ]
    assert plan(model, qformat="w4a8_dynamic").notes == (
        "1 weights are stored in INT4: qformat w4a8_dynamic quantises their values anew",
    )
    assert plan(model, qformat="int8_wo").notes == (
        "14 weights are stored in INT4: qformat int8_wo quantises their values anew",
    )
    change_tensors(model, **{name: (np.ones((255, 1), np.float32), "F32")})
    with pytest.raises(CheckpointError, match=r"has shape \[255, 1\]; \[256, 128 / group\]"):
        plan(model)


@pytest.mark.parametrize(("groups", "size"), [(1, 128), (2, 64), (4, 32)])
@pytest.mark.parametrize("qformat", ["int4_awq", "w4a8_dynamic"])
def test_blocks_are_as_large_as_the_groups_of_the_codes_allow(
    model: Path, qformat: str, groups: int, size: int
) -> None:
    store_smoothed(model, "W4A16_AWQ")
    scale = np.ones((256, groups), np.float32)
    change_tensors(model, **{f"{LAYER}mlp.up_proj.weight_scale": (scale, "F32")})
    planned = plan(model, qformat=qformat)
    assert planned.notes == ()
    weights = [node.weight(1) for node in planned.network.nodes if node.op == "linear"]
    blocks = [weight.blocks for weight in weights if weight.dtype == "i4"]
    assert blocks == [Blocks(size, "i8" if qformat == "w4a8_dynamic" else None)] * 8
    with pytest.raises(OptionError) if size < 128 else nullcontext() as error:
        plan(model, qformat="int4_awq", sku="h100")
    if error is not None:
        assert [str(problem) for problem in error.value.problems] == [
            (
                "qformat: int4_awq takes codes in blocks of 128 inputs; those of the checkpoint "
                f"are in blocks of {size} (choose --qformat int8_wo, which quantises the values "
                "anew, or --sku cpu)"
            )
        ]


def test_fp8_products_take_the_second_scale_of_their_weights(model: Path) -> None:
    store_smoothed(model, "W4A8_AWQ")
    name = f"{LAYER}mlp.up_proj.weight_scale_2"
    change_tensors(model, **{name: (np.ones(2, np.float32), "F32")})
    with pytest.raises(CheckpointError, match=rf"{name}: has shape \[2\]"):
        plan(model)
    change_tensors(model, **{name: (np.array([-1], np.float32), "F32")})
    with pytest.raises(CheckpointError, match=rf"{name}: is -1.0; a finite number above zero"):
        build(plan(model, output=model / "engine"))
    # As small as its reciprocal allows: scales of groups are no longer numbers in its units.
    change_tensors(
        model,
        **{
            name: (np.array([2e-38], np.float32), "F32"),
            f"{LAYER}mlp.up_proj.weight_scale": (np.full((256, 1), 10, np.float32), "F32"),
        },
    )
    with pytest.raises(CheckpointError, match=r"up_proj.weight_scale: leaves the range of float32"):
        build(plan(model, output=model / "engine"))
    change_tensors(model, **{name: None})
    with pytest.raises(CheckpointError) as error:
        plan(model)
    (problem,) = error.value.problems
    assert str(problem) == (
        f"{name}: is missing, with 0 more: qformat w4a8_awq takes calibrated scales (give "
        "--calib_dataset FILE, or calibrate the checkpoint with `enginery quantize`, or choose "
        "--qformat int4_wo)"
    )
    # Other schemes do without it.
    assert plan(model, qformat="int4_awq").options.qformat == "int4_awq"


def test_zero_points_do_not_go_beside_fp8_activations(model: Path) -> None:
    quantize_checkpoint(model, "awq_g128")
    with pytest.raises(CheckpointError) as error:
        plan(model, qformat="w4a8_awq")
    messages = [str(problem) for problem in error.value.problems]
    name = "model.layers.0.mlp.down_proj.weight"
    assert (
        f"{name}: has zero points, as 13 more; qformat w4a8_awq takes symmetric codes (choose "
        "--qformat int4_wo or w4a8_dynamic)"
    ) in messages


def test_scales_that_vanish_in_bfloat16_make_zeros(model: Path) -> None:
    store_smoothed(model, "W4A16_AWQ")
    name = f"{LAYER}mlp.down_proj.weight"
    tensors, _ = read_tensors(model / "model.safetensors")
    scale = tensors[f"{name}_scale"].copy()
    scale[5, 1], scale[6, 0] = 0, 1e-44
    change_tensors(model, **{f"{name}_scale": (scale, "F32")})
    planned = plan(model)
    (weight,) = {
        node.weight(1)
        for node in planned.network.nodes
        if node.op == "linear" and node.weight(1).name == name
    }
    with Checkpoint(model, planned.config.stored_as) as checkpoint:
        found = dequantised_rows(checkpoint, weight.rows(4, 8))
        expected = checkpoint.read_float32(name, slice(4, 8))
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-40)
    assert not found[1, 128:].any() and not found[2, :128].any()
