# SPDX-License-Identifier: Apache-2.0
"""Calibrated scales beside a checkpoint's weights: needed, left unread, or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError
from enginery.builder.options import BuildRequest
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import add_scales, change_tensors, read_tensors

Q_SCALE = "model.layers.0.self_attn.q_proj.input_scale"
K_SCALE = "model.layers.1.self_attn.k_proj.k_scale"


def plan(model: Path, **options: Any) -> PlannedBuild:
    return plan_build(BuildRequest(model, sku="h100", **options))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tiny_checkpoint(tmp_path / "model", "qwen3", tie=True)
    return add_scales(tmp_path / "model", "fp8", "int8")


@pytest.mark.parametrize("qformat", ["fp8", "int8_sq"])
def test_a_scheme_that_needs_scales_names_them_and_what_does_without(
    tmp_path: Path, qformat: str
) -> None:
    write_tiny_checkpoint(tmp_path, "llama")
    with pytest.raises(CheckpointError) as error:
        plan(tmp_path, qformat=qformat)
    (problem,) = error.value.problems
    assert problem.field == Q_SCALE
    assert problem.message == f"is missing, with 13 more: qformat {qformat} takes calibrated scales"
    assert problem.fix == (
        "give --calib_dataset FILE, or calibrate the checkpoint with `enginery quantize`, or "
        "choose --qformat int8_wo"
    )


def test_an_int8_kv_cache_needs_scales_and_fp8_does_not(model: Path) -> None:
    change_tensors(model, **{K_SCALE: None})
    with pytest.raises(CheckpointError, match="k_scale: is missing, with 0 more: kv_cache_dtype"):
        plan(model, kv_cache_dtype="int8")
    assert plan(model, kv_cache_dtype="fp8").notes[1:] == (
        "1 KV cache scales are not in the checkpoint: 1 is taken for them",
    )


def test_scales_that_are_not_needed_are_told(model: Path) -> None:
    assert plan(model, qformat="fp8", kv_cache_dtype="int8").notes == ()
    activations, kv = plan(model, qformat="int8_wo").notes
    assert activations == (
        f"14 activation scales of the checkpoint ({Q_SCALE}, ...) are not read: qformat int8_wo "
        "does not quantise activations by calibrated scales"
    )
    assert kv == "4 KV cache scales of the checkpoint are not read: the KV cache is bfloat16"


def test_a_scale_of_the_output_projection_is_told_as_unread(model: Path) -> None:
    change_tensors(model, **{"lm_head.input_scale": (np.array(np.float32(0.1)), "F32")})
    (note,) = plan(model, qformat="fp8", kv_cache_dtype="int8").notes
    assert note.startswith("1 activation scales of the checkpoint (lm_head.input_scale, ...)")
    assert note.endswith("qformat fp8 leaves these layers in the build dtype")


@pytest.mark.parametrize(
    "name", ["model.layers.2.self_attn.k_proj.k_scale", "model.layers.0.mlp.input_scale"]
)
def test_a_scale_of_what_the_model_has_not_is_unexpected(model: Path, name: str) -> None:
    change_tensors(model, **{name: (np.array(np.float32(0.1)), "F32")})
    with pytest.raises(CheckpointError, match=f"{name}: is unexpected"):
        plan(model)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (np.ones(2, np.float32), "F32", r"has shape \[2\]; one scale per tensor is expected"),
        (np.array(7, np.int32), "I32", "has dtype I32"),
    ],
)
def test_misshapen_scales(model: Path, value: npt.NDArray[Any], dtype: str, message: str) -> None:
    change_tensors(model, **{Q_SCALE: (value, dtype)})
    with pytest.raises(CheckpointError, match=f"q_proj.input_scale: {message}"):
        plan(model, qformat="fp8")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_scales_that_cannot_be_are_refused_before_anything_is_compiled(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    change_tensors(model, **{Q_SCALE: (np.array(np.float32(value)), "F32")})
    planned = plan(model, output=tmp_path / "engine", qformat="fp8")
    monkeypatch.setattr(type(planned.target), "artifacts", None)
    with pytest.raises(CheckpointError, match=f"{Q_SCALE}: is "):
        build(planned)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_16_bit_scales_are_read_exactly(model: Path) -> None:
    change_tensors(
        model,
        **{
            Q_SCALE: (np.array([0.75], np.float16), "F16"),
            Q_SCALE.replace("q_proj", "k_proj"): (np.array([0x3F00], np.uint16), "BF16"),
        },
    )
    planned = plan(model, qformat="fp8")
    index = [t.name for t in planned.payloads[0].program.tensors].index(
        "model.layers.0.self_attn.qkv_proj.weight.inverse"
    )
    with Checkpoint(model) as checkpoint:
        found = dict(planned.payloads[0].pack(checkpoint))
    assert np.frombuffer(found[index], np.float32).tolist() == [np.float32(1) / np.float32(0.75)]


def store_in_fp8(model: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Stores the layers' linear weights as ModelOpt does; returns the codes."""
    tensors, dtypes = read_tensors(model / "model.safetensors")
    stored = {}
    for number, name in enumerate(list(tensors)):
        if name.endswith("_proj.weight"):
            scale = np.abs(tensors[name]).max() / np.float32(448)
            codes = (tensors[name] / scale).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
            tensors[name] = stored[name] = codes
            dtypes[name] = "F8_E4M3"
            tensors[f"{name}_scale"] = np.array(scale * np.float32(1 + number))
            dtypes[f"{name}_scale"] = "F32"
    write_safetensors(model / "model.safetensors", tensors, dtypes)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
    (model / "config.json").write_text(json.dumps(config))
    return stored


@pytest.mark.parametrize("tp_size", [1, 2])
def test_codes_that_the_checkpoint_holds_are_kept(model: Path, tp_size: int) -> None:
    stored = store_in_fp8(model)
    planned = plan(model, qformat="fp8", tp_size=tp_size)
    payload = planned.payloads[-1]
    names = [tensor.name for tensor in payload.program.tensors]
    tensors, _ = read_tensors(model / "model.safetensors")
    with Checkpoint(model) as checkpoint:
        pieces = {names[index]: bytes(piece) for index, piece in payload.pack(checkpoint)}
        scales = {
            letter: tensors[f"model.layers.1.self_attn.{letter}_proj.weight_scale"]
            for letter in "qkv"
        }
        q_input = max(
            checkpoint.read_scalar(f"model.layers.1.self_attn.{letter}_proj.input_scale")
            for letter in "qkv"
        )
    prefix = "model.layers.1.self_attn."
    qkv = [np.split(stored[f"{prefix}{x}_proj.weight"], tp_size)[-1] for x in "qkv"]
    assert pieces[f"{prefix}qkv_proj.weight"] == np.concatenate(qkv).tobytes()
    o_proj = np.split(stored[f"{prefix}o_proj.weight"], tp_size, axis=1)[-1]
    assert pieces[f"{prefix}o_proj.weight"] == o_proj.tobytes()
    expected = [np.full(len(part), scales[x]) for part, x in zip(qkv, "qkv", strict=True)]
    found = np.frombuffer(pieces[f"{prefix}qkv_proj.weight.scale"], np.float32)
    assert np.array_equal(found, np.concatenate(expected) * q_input)


def test_codes_of_another_kind_give_their_values(model: Path) -> None:
    codes = store_in_fp8(model)
    planned = plan(model, qformat="int8_wo")
    assert planned.notes[0] == (
        "14 weights are stored in FP8: qformat int8_wo quantises their values anew"
    )
    name = "model.layers.1.mlp.down_proj.weight"
    tensors, _ = read_tensors(model / "model.safetensors")
    with Checkpoint(model) as checkpoint:
        values = checkpoint.read_float32(name, slice(3, 9), slice(5, 70))
    expected = codes[name].view(ml_dtypes.float8_e4m3fn).astype(np.float32)[3:9, 5:70]
    assert np.array_equal(values, expected * tensors[f"{name}_scale"])


def test_codes_without_their_scale(model: Path) -> None:
    store_in_fp8(model)
    change_tensors(model, **{"model.layers.0.mlp.up_proj.weight_scale": None})
    with pytest.raises(CheckpointError, match=r"up_proj\.weight_scale: is missing; .* F8_E4M3"):
        plan(model, qformat="fp8")


def test_a_nan_among_the_codes_is_named(model: Path) -> None:
    codes = store_in_fp8(model)["model.layers.0.mlp.up_proj.weight"].copy()
    codes[3, 5] = 0xFF
    change_tensors(model, **{"model.layers.0.mlp.up_proj.weight": (codes, "F8_E4M3")})
    planned = plan(model, qformat="fp8")
    with Checkpoint(model) as checkpoint, pytest.raises(CheckpointError, match=r"up_proj.*a NaN"):
        list(planned.payloads[0].pack(checkpoint))
