# SPDX-License-Identifier: Apache-2.0
"""What quantising one layer costs: by hand, where it must be worst, and for every scheme."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.options import BuildRequest
from enginery.builder.targets import weight_rows
from enginery.float_network import LinearRows
from enginery.layer_noise import LayerNoise, NoiseMeter, measure_layers, rounded_operand
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import add_scales, read_tensors

FloatArray = npt.NDArray[np.float32]

TOKEN_IDS = np.random.default_rng(0).integers(0, 314, 60).tolist()
DOWN_1 = "model.layers.1.mlp.down_proj"
LAYER = "model.layers.{}."


def plan(model: Path, qformat: str = "none", **options: Any) -> PlannedBuild:
    return plan_build(BuildRequest(model, **{"qformat": qformat, **options}))


def measure(model: Path, qformat: str, reference: Path | None = None, **options: Any) -> Any:
    """The layers by name, in the order in which they are reported."""
    planned = plan(model, qformat, **options)
    layers = measure_layers(planned, plan(reference or model), TOKEN_IDS)
    return {layer.name: layer for layer in layers}


def snr(layer: LayerNoise) -> float:
    assert layer.snr_db is not None
    return layer.snr_db


def change(model: Path, function: Callable[[dict[str, FloatArray]], None]) -> Path:
    """Changes the float32 tensors of a checkpoint in place."""
    tensors, _ = read_tensors(model / "model.safetensors")
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    function(tensors)
    dtypes = dict.fromkeys(tensors, "F32")
    write_safetensors(model / "model.safetensors", tensors, dtypes)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model", "llama")


def test_a_case_by_hand(model: Path) -> None:
    """Scales are 1, so that every code can be read off."""

    def write(tensors: dict[str, FloatArray]) -> None:
        weight = tensors["model.layers.0.self_attn.o_proj.weight"]
        weight[:] = 0
        weight[0, :3] = 127, 1.25, 4  # codes 127, 1, 4
        weight[1, :3] = 127, 0, 64.5  # codes 127, 0, 64: half to even

    planned = plan(change(model, write), "int8_dynamic")
    (layer,) = (n for n in planned.network.nodes if n.output.name == "layers.0.attention_residual")
    x = np.zeros((1, 128), np.float32)
    x[0, :3] = 0, 127, 2.5  # codes 0, 127, 2
    with Checkpoint(model) as checkpoint:
        weight = checkpoint.read_float32("model.layers.0.self_attn.o_proj.weight")
        meter = NoiseMeter(planned.network, planned.options, checkpoint)
        for begin, end in ((0, 1), (1, 128)):
            rows = weight[begin:end]
            meter.watch(LinearRows(layer, begin, end, x, rows, x @ rows.T))
    (found,) = (noise for noise in meter.layers() if noise.noise_share == 1)
    # 1.25 * 127 + 4 * 2.5 becomes 127 + 4 * 2; 64.5 * 2.5 becomes 64 * 2.
    signal = 168.75**2 + 161.25**2
    noise = (168.75 - 135) ** 2 + (161.25 - 128) ** 2
    assert found.snr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-6)
    assert found == LayerNoise(
        "model.layers.0.self_attn.o_proj",
        ("model.layers.0.self_attn.o_proj",),
        "i8",
        "i8",
        found.snr_db,
        1.0,
    )


def plant_outlier(tensors: dict[str, FloatArray]) -> None:
    """One channel of what down_proj of layer 1 reads is 300 times what it was; the model is not."""
    tensors["model.layers.1.mlp.up_proj.weight"][17] *= 300
    tensors[f"{DOWN_1}.weight"][:, 17] /= 300


def test_an_outlier_in_a_layers_input_makes_it_the_worst(model: Path) -> None:
    before = measure(model, "int8_dynamic")
    after = measure(change(model, plant_outlier), "int8_dynamic")
    assert next(iter(before)) != DOWN_1
    assert next(iter(after)) == DOWN_1
    assert snr(after[DOWN_1]) < snr(before[DOWN_1]) - 20
    assert after[DOWN_1].noise_share > 0.9
    for name in {"lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"}:
        assert snr(after[name]) == pytest.approx(snr(before[name]), abs=0.1)


def test_excluding_the_worst_layer_takes_its_noise_away(model: Path) -> None:
    change(model, plant_outlier)
    before = measure(model, "int8_dynamic")
    after = measure(model, "int8_dynamic", exclude_modules=(next(iter(before)),))
    assert (before[DOWN_1].dtype, before[DOWN_1].activation_dtype) == ("i8", "i8")
    assert (after[DOWN_1].dtype, after[DOWN_1].activation_dtype) == ("bf16", "bf16")
    assert snr(after[DOWN_1]) > 45
    assert next(reversed(after)) == DOWN_1
    others = [name for name in before if name != DOWN_1]
    assert [after[name].snr_db for name in others] == [before[name].snr_db for name in others]

    def ratios(layers: dict[str, LayerNoise]) -> float:
        return sum(10 ** (-snr(layer) / 10) for layer in layers.values())

    # What the share says is what is gained.
    assert ratios(after) / ratios(before) == pytest.approx(1 - before[DOWN_1].noise_share, abs=1e-3)


def test_int8_is_above_int4(model: Path) -> None:
    by_scheme = {name: measure(model, name) for name in ("int8_wo", "int4_wo", "w4a8_dynamic")}
    for name in by_scheme["int8_wo"]:
        if name == "lm_head":
            continue
        int8 = snr(by_scheme["int8_wo"][name])
        assert 35 < int8 < 50
        for four in ("int4_wo", "w4a8_dynamic"):
            assert 15 < snr(by_scheme[four][name]) < int8 - 15
    assert by_scheme["int4_wo"]["lm_head"].dtype == "bf16"
    assert by_scheme["w4a8_dynamic"]["lm_head"].dtype == "i8"


def test_nothing_is_lost_where_nothing_is_rounded(model: Path) -> None:
    layers = measure(model, "none", dtype="float32")
    assert {layer.snr_db for layer in layers.values()} == {None}
    assert {layer.noise_share for layer in layers.values()} == {0.0}
    rounded = measure(model, "none", dtype="bfloat16")
    assert all(45 < snr(layer) < 60 for layer in rounded.values())


@pytest.mark.parametrize(
    ("sku", "qformat", "dtype"),
    [
        ("cpu", "int8_wo", "float32"),
        ("cpu", "int8_sq", "bfloat16"),
        ("cpu", "fp8", "bfloat16"),
        ("cpu", "w4a8_dynamic", "bfloat16"),
        ("h100", "none", "float16"),
        ("h100", "int8_wo", "float16"),
        ("h100", "int4_wo", "bfloat16"),
        ("h100", "int8_sq", "float16"),
        ("h100", "fp8", "bfloat16"),
    ],
)
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_every_scheme_has_figures(
    tmp_path: Path, family: str, sku: str, qformat: str, dtype: str
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", family, tie=True)
    add_scales(model, qformat)
    layers = list(measure(model, qformat, sku=sku, dtype=dtype).values())
    assert [layer.name for layer in sorted(layers, key=lambda layer: layer.name)] == [
        "lm_head",
        *(
            LAYER.format(index) + module
            for index in range(2)
            for module in (
                "mlp.down_proj",
                "mlp.gate_up_proj",
                "self_attn.o_proj",
                "self_attn.qkv_proj",
            )
        ),
    ]
    parts = {layer.name: layer.parts for layer in layers}
    assert parts["lm_head"] == ("lm_head",)
    assert parts["model.layers.1.self_attn.qkv_proj"] == tuple(
        f"model.layers.1.self_attn.{which}_proj" for which in "qkv"
    )
    assert all(10 < snr(layer) < 80 for layer in layers)
    assert [snr(layer) for layer in layers] == sorted(snr(layer) for layer in layers)
    assert sum(layer.noise_share for layer in layers) == pytest.approx(1)
    again = list(measure(model, qformat, sku=sku, dtype=dtype).values())
    assert again == layers


def test_the_size_of_pieces_changes_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(model, "w4a8_dynamic")
    monkeypatch.setattr(weight_rows, "PIECE_ELEMENTS", 3000)
    for name, layer in measure(model, "w4a8_dynamic").items():
        assert layer.snr_db == pytest.approx(whole[name].snr_db, abs=1e-3)


def test_static_operands_are_rounded_and_saturated() -> None:
    x = np.array([[0.3, -0.71, 100, -1e6, 0]], np.float32)
    scale = np.float32(0.25)
    fp8 = np.clip(x / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    np.testing.assert_array_equal(rounded_operand(x, "f8e4m3", scale), fp8 * scale)
    int8 = np.array([[0.25, -0.75, 31.75, -32, 0]], np.float32)
    np.testing.assert_array_equal(rounded_operand(x, "i8", scale), int8)


def test_float_operands_are_rounded_and_float16_saturates() -> None:
    x = np.array([[1 + 2**-8, 1 + 3 * 2**-8, 1e6]], np.float32)
    np.testing.assert_array_equal(
        rounded_operand(x, "bf16"), x.astype(ml_dtypes.bfloat16).astype(np.float32)
    )
    np.testing.assert_array_equal(
        rounded_operand(x, "f16"), np.array([[1 + 2**-8, 1 + 3 * 2**-8, 65504]], np.float32)
    )
    np.testing.assert_array_equal(rounded_operand(x, "f32"), x)


READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def factors(stream: np.random.Generator, count: int) -> FloatArray:
    drawn: FloatArray = np.exp(stream.uniform(-1.5, 1.5, count)).astype(np.float32)
    return drawn


def fold(tensors: dict[str, FloatArray]) -> None:
    """Moves factors between layers as smoothing does: the model stays what it was."""
    stream = np.random.default_rng(3)
    for index in range(2):
        prefix = LAYER.format(index)
        for norm, readers in READERS.items():
            factor = factors(stream, 128)
            tensors[f"{prefix}{norm}.weight"] /= factor
            for reader in readers:
                tensors[f"{prefix}{reader}.weight"] *= factor
        factor = factors(stream, 256)
        tensors[f"{prefix}mlp.up_proj.weight"] /= factor[:, np.newaxis]
        tensors[f"{prefix}mlp.down_proj.weight"] *= factor
        factor = factors(stream, 64).reshape(2, 32)  # KV heads of 32, each of two query heads
        tensors[f"{prefix}self_attn.v_proj.weight"] /= factor.reshape(-1, 1)
        tensors[f"{prefix}self_attn.o_proj.weight"] *= np.repeat(factor, 2, axis=0).reshape(-1)


def leave_beside(tensors: dict[str, FloatArray]) -> None:
    """Smooths as ModelOpt does: the inputs' factors stand beside the weights."""
    stream = np.random.default_rng(4)
    for index in range(2):
        prefix = LAYER.format(index)
        for readers in (*READERS.values(), ("self_attn.o_proj",), ("mlp.down_proj",)):
            factor = factors(stream, tensors[f"{prefix}{readers[0]}.weight"].shape[1])
            for reader in readers:
                tensors[f"{prefix}{reader}.weight"] *= factor
                tensors[f"{prefix}{reader}.pre_quant_scale"] = np.float32(1) / factor


@pytest.mark.parametrize("smooth", [fold, leave_beside])
def test_factors_between_layers_are_no_noise(
    tmp_path: Path, model: Path, smooth: Callable[[dict[str, FloatArray]], None]
) -> None:
    """Beside the original, a smoothed checkpoint has the noise of its rounding and no other."""
    smoothed = change(write_tiny_checkpoint(tmp_path / "smoothed", "llama"), smooth)
    alone = measure(smoothed, "int8_dynamic")
    beside = measure(smoothed, "int8_dynamic", reference=model)
    unsmoothed = measure(model, "int8_dynamic")
    for name, layer in beside.items():
        # The rows of v_proj and up_proj weigh differently in the sums of one checkpoint and the
        # other; where none are scaled the figures are the same.
        is_scaled = name.endswith(("qkv_proj", "gate_up_proj"))
        tolerance = 3.0 if is_scaled else 0.1
        assert layer.snr_db == pytest.approx(alone[name].snr_db, abs=tolerance), name
    assert snr(beside[DOWN_1]) < snr(unsmoothed[DOWN_1]) - 3
    # Nor without any rounding.
    exact = measure(smoothed, "none", reference=model, dtype="float32")
    assert all(layer.snr_db is None or layer.snr_db > 100 for layer in exact.values())


def test_the_same_weights_elsewhere_are_the_same_reference(tmp_path: Path, model: Path) -> None:
    copy = write_tiny_checkpoint(tmp_path / "copy", "llama")
    expected = measure(model, "int4_wo")
    for name, layer in measure(copy, "int4_wo", reference=model).items():
        assert layer.snr_db == pytest.approx(expected[name].snr_db, abs=0.1)
        assert dataclasses.replace(layer, snr_db=None, noise_share=0) == dataclasses.replace(
            expected[name], snr_db=None, noise_share=0
        )
