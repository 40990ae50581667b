# SPDX-License-Identifier: Apache-2.0
"""What calibration is for: channels with outliers cost less than they do without it.

The outliers are planted without changing what the model computes: a few channels of what a layer
reads are made large by the weight before it, and the layer's columns small by as much.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from enginery.quantization import calibration
from enginery.quantize import QuantizeRequest, plan_quantization, quantize
from tests.e2e.conftest import Reference
from tests.e2e.test_quantized_checkpoints import logits
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import read_tensors
from tests.support.tolerances import relative_error

OUTLIERS = 40.0
NUM_OUTLIERS = 4


def plant_outliers(directory: Path) -> Path:
    """Makes some channels of every norm's output, and of up_proj's, 40 times as large."""
    path = directory / "model.safetensors"
    tensors, dtypes = read_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    rng = np.random.default_rng(3)
    readers = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.up_proj": ("mlp.down_proj",),
    }
    for layer in range(2):
        for source, modules in readers.items():
            weight = tensors[f"model.layers.{layer}.{source}.weight"]
            channels = rng.choice(len(weight), NUM_OUTLIERS, replace=False)
            weight[channels] *= np.float32(OUTLIERS)
            for module in modules:
                columns = tensors[f"model.layers.{layer}.{module}.weight"]
                columns[:, channels] /= np.float32(OUTLIERS)
    write_safetensors(path, tensors, dtypes)
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_tiny_checkpoint(tmp_path_factory.mktemp("outliers") / "model", "llama")
    rng = np.random.default_rng(11)
    lines = (bytes(rng.integers(97, 123, 60).tolist()).decode() for _ in range(40))
    text = "\n".join(json.dumps({"text": line}) for line in lines)
    (directory / "calibration.jsonl").write_text(text)
    return plant_outliers(directory)


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    drawn: list[int] = np.random.default_rng(9).integers(97, 123, size=64).tolist()
    return drawn


def error_of(
    model: Path, qformat: str, expected: npt.NDArray[np.float32], prompt: list[int], folder: Path
) -> float:
    """Mean over positions of how far the logits of a calibrated engine are off."""
    quantised = folder / f"{qformat}-checkpoint"
    request = QuantizeRequest(
        model,
        quantised,
        qformat,
        calib_dataset=model / "calibration.jsonl",
        calib_max_seq_length=64,
    )
    quantize(plan_quantization(request))
    got = logits(quantised, folder / f"{qformat}-engine", prompt)
    return float(relative_error(got, expected).mean())


def test_awq_beats_rounding_to_nearest(
    model: Path, prompt: list[int], reference: Reference, tmp_path: Path
) -> None:
    expected = reference(model, prompt)
    nearest = error_of(model, "int4_wo", expected, prompt, tmp_path)
    awq = error_of(model, "int4_awq", expected, prompt, tmp_path)
    assert awq < 0.7 * nearest


def test_smoothquant_beats_plain_int8(
    model: Path,
    prompt: list[int],
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = reference(model, prompt)
    smoothed = error_of(model, "int8_sq", expected, prompt, tmp_path)
    monkeypatch.setitem(calibration.CONFIG_NAMES, "int8_sq", "INT8_DEFAULT_CFG")
    plain = error_of(model, "int8_sq", expected, prompt, tmp_path / "plain")
    per_token = float(
        relative_error(
            logits(model, tmp_path / "per_token", prompt, qformat="int8_dynamic"), expected
        ).mean()
    )
    assert smoothed < 0.5 * plain
    assert smoothed < per_token


@pytest.mark.parametrize(("qformat", "limit"), [("int8_sq", 0.1), ("int4_awq", 0.6), ("fp8", 0.3)])
def test_rows_and_channels_of_zeros_and_of_one_value(
    qformat: str, limit: float, model: Path, prompt: list[int], reference: Reference, tmp_path: Path
) -> None:
    path = shutil.copytree(model, tmp_path / "flat") / "model.safetensors"
    tensors, dtypes = read_tensors(path)
    tensors = {name: array.copy() for name, array in tensors.items()}
    for module in ("self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"):
        weight = tensors[f"model.layers.0.{module}.weight"]
        weight[3], weight[4], weight[:, 5], weight[:, 6] = 0, 0.25, 0, 0.125
    tensors["model.layers.1.mlp.gate_proj.weight"][:] = 0
    write_safetensors(path, tensors, dtypes)
    expected = reference(path.parent, prompt)
    assert error_of(path.parent, qformat, expected, prompt, tmp_path) < limit
