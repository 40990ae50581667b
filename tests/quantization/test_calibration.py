# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("modelopt", reason="calibration needs the extra calib")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from enginery.builder.errors import OptionError
from enginery.quantization.calibration_data import CalibrationError
from enginery.quantization.calibration_job import CalibrationState
from enginery.quantize import QuantizeRequest, plan_quantization, quantize
from tests.support.checkpoints import write_tiny_checkpoint

TEXT = "And the earth was without form, and void; and darkness was upon the deep.\n" * 20
Q = "model.layers.0.self_attn.q_proj"
Q_NORM = "model.layers.0.input_layernorm.weight"
DOWN = "model.layers.1.mlp.down_proj"
K_SCALE = "model.layers.0.self_attn.k_proj.k_scale"
V_SCALE = "model.layers.0.self_attn.v_proj.v_scale"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The layers are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_tiny_checkpoint(directory, "llama", dtype="bfloat16")
    (directory / "calibration.txt").write_text(TEXT)
    return directory


def run(
    model: Path,
    output: Path,
    qformat: str,
    states: list[CalibrationState] | None = None,
    **options: Any,
) -> dict[str, torch.Tensor]:
    request = QuantizeRequest(
        model, output, qformat, calib_size=3, calib_max_seq_length=64, batch_size=2, **options
    )
    seen: list[CalibrationState] = [] if states is None else states
    quantize(plan_quantization(request), seen.append)
    tensors: dict[str, torch.Tensor] = load_file(output / "model.safetensors")
    return tensors


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def weight_of(
    tensors: dict[str, torch.Tensor], original: dict[str, torch.Tensor], name: str
) -> torch.Tensor:
    """The weight that codes, scales and factors of the inputs stand for together."""
    codes, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    if codes.dtype == torch.uint8:
        nibbles = torch.stack([codes & 15, codes >> 4], dim=1).reshape(-1, codes.shape[1])
        values = nibbles.to(torch.int8)
        values = torch.where(values > 7, values - 16, values).float()
        weight = values * scale.repeat_interleave(values.shape[1] // scale.shape[1], dim=1)
    else:
        weight = codes.float() * (scale[:, None] if scale.ndim else scale)
    if f"{name}.pre_quant_scale" in tensors:
        return weight * tensors[f"{name}.pre_quant_scale"].float()
    if name == Q:
        # Factors of what a norm gives are in the norm's weight.
        return weight * tensors[Q_NORM].float() / original[Q_NORM].float()
    return weight


@pytest.mark.parametrize(
    ("qformat", "algorithm", "dtype", "has_input_scales", "tolerance"),
    [
        ("fp8", "FP8", torch.float8_e4m3fn, True, 0.04),
        ("int8_wo", "W8A16", torch.int8, False, 0.01),
        ("int4_wo", "W4A16_AWQ", torch.uint8, False, 0.2),
        ("int8_sq", "W8A8_SQ_PER_CHANNEL", torch.int8, True, 0.04),
        ("int4_awq", "W4A16_AWQ", torch.uint8, False, 0.2),
        ("w4a8_awq", "W4A8_AWQ", torch.uint8, True, 0.2),
    ],
)
def test_every_format_is_written(
    model: Path,
    tmp_path: Path,
    qformat: str,
    algorithm: str,
    dtype: torch.dtype,
    has_input_scales: bool,
    tolerance: float,
) -> None:
    output = tmp_path / "out"
    tensors = run(model, output, qformat)
    original = load_file(model / "model.safetensors")
    assert read(output / "hf_quant_config.json")["quantization"]["quant_algo"] == algorithm
    config = read(output / "config.json")
    assert config.pop("quantization_config")["quant_algo"] == algorithm
    assert config == read(model / "config.json")
    for name in (Q, DOWN):
        assert tensors[f"{name}.weight"].dtype == dtype
        assert (f"{name}.input_scale" in tensors) == has_input_scales
        wanted = original[f"{name}.weight"].float()
        error = (weight_of(tensors, original, name) - wanted).norm() / wanted.norm()
        assert error < tolerance
    # What is not quantised keeps its dtype, and where nothing is smoothed its bytes.
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(tensors[name], original[name])
    assert tensors["model.layers.0.input_layernorm.weight"].dtype == torch.bfloat16
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (output / name).read_bytes() == (model / name).read_bytes()


@pytest.mark.parametrize(("qformat", "size"), [("int4_wo", 32), ("w4a8_awq", 64)])
def test_blocks_are_as_large_as_is_asked_for(
    model: Path, tmp_path: Path, qformat: str, size: int
) -> None:
    output = tmp_path / "out"
    tensors = run(model, output, qformat, awq_block_size=size)
    original = load_file(model / "model.safetensors")
    assert tensors[f"{DOWN}.weight_scale"].shape == (128, 256 // size)
    wanted = original[f"{DOWN}.weight"].float()
    error = (weight_of(tensors, original, DOWN) - wanted).norm() / wanted.norm()
    assert error < 0.15
    assert read(output / "hf_quant_config.json")["quantization"]["group_size"] == size
    assert read(output / "calibration.json")["block_size"] == size


@pytest.mark.parametrize(
    ("qformat", "size", "message"),
    [
        ("int4_awq", 16, "awq_block_size: 16 is not one of 128, 64, 32"),
        ("fp8", 64, "awq_block_size: is given beside qformat fp8, whose weights have a scale per"),
    ],
)
def test_blocks_that_there_are_not(
    model: Path, tmp_path: Path, qformat: str, size: int, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        run(model, tmp_path / "out", qformat, awq_block_size=size)


def test_scales_are_those_of_the_activations(model: Path, tmp_path: Path) -> None:
    """The scales follow from the largest values that transformers itself computes."""
    planned = plan_quantization(
        QuantizeRequest(model, tmp_path / "out", "fp8", calib_max_seq_length=64)
    )
    quantize(planned)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    amax = {Q: 0.0, DOWN: 0.0}
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for name in amax:

        def hook(module: Any, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            amax[name] = max(amax[name], float(inputs[0].abs().max()))

        reference.get_submodule(name).register_forward_pre_hook(hook)
    assert planned.data is not None
    with torch.inference_mode():
        for batch in planned.data.batches(1):
            reference(torch.from_numpy(batch))
    for name, value in amax.items():
        assert float(tensors[f"{name}.input_scale"]) == pytest.approx(value / 448, rel=1e-4)


@pytest.mark.parametrize(("dtype", "largest", "name"), [("fp8", 448, "FP8"), ("int8", 127, "INT8")])
@pytest.mark.parametrize("qformat", ["int8_wo", "none"])
def test_scales_of_the_kv_cache(
    model: Path, tmp_path: Path, dtype: str, largest: int, name: str, qformat: str
) -> None:
    output = tmp_path / "out"
    tensors = run(model, output, qformat, kv_cache_dtype=dtype)
    described = read(output / "hf_quant_config.json")["quantization"]
    assert described["kv_cache_quant_algo"] == name
    assert (described["quant_algo"] is None) == (qformat == "none")
    for scale in (K_SCALE, V_SCALE):
        assert tensors[scale].dtype == torch.float32 and tensors[scale].shape == ()
        # Keys and values of the tiny checkpoints stay near 1, and reach a few.
        assert 1 < float(tensors[scale]) * largest < 20
    assert len([name for name in tensors if name.endswith(("k_scale", "v_scale"))]) == 4
    assert not [name for name in tensors if "quantizer" in name]
    if qformat == "none":
        original = load_file(model / "model.safetensors")
        assert all(torch.equal(tensors[name], original[name]) for name in original)
        assert "quantization_config" not in read(output / "config.json")


def test_the_same_seed_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(model, tmp_path / name, "int8_sq", seed=seed)
    first, same, other = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b", "c")
    )
    assert first == same and first != other


def test_excluded_modules_stay_as_they_are(model: Path, tmp_path: Path) -> None:
    tensors = run(model, tmp_path / "out", "fp8", exclude_modules=("down_proj",))
    original = load_file(model / "model.safetensors")
    assert torch.equal(tensors[f"{DOWN}.weight"], original[f"{DOWN}.weight"])
    assert f"{DOWN}.input_scale" not in tensors and f"{Q}.input_scale" in tensors
    named = read(tmp_path / "out" / "hf_quant_config.json")["quantization"]["exclude_modules"]
    assert any("down_proj" in pattern for pattern in named)


@pytest.mark.parametrize(("qformat", "num_passes"), [("fp8", 1), ("int4_awq", 2)])
def test_progress_counts_passes_and_samples(
    model: Path, tmp_path: Path, qformat: str, num_passes: int
) -> None:
    states: list[CalibrationState] = []
    run(model, tmp_path / "out", qformat, states)
    samples = [(state.pass_index, state.num_samples) for state in states]
    assert samples == [(index, done) for index in range(num_passes) for done in (2, 3)]
    shares = [state.share for state in states]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert all(s.num_passes == num_passes and s.all_samples == 3 for s in states)
    assert all(s.tokens_per_second > 0 and s.seconds > 0 for s in states)


def test_nothing_is_printed(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(model, tmp_path / "out", "int4_awq")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    yield


@pytest.mark.usefixtures("no_gpu")
def test_a_gpu_that_is_not_there_is_refused_and_nothing_is_left(
    model: Path, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match=r"torch finds no CUDA GPU .*--device cpu"):
        run(model, tmp_path / "out", "fp8", device="cuda")
    assert not list(tmp_path.iterdir())
