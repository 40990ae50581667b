# SPDX-License-Identifier: Apache-2.0
"""The accuracy gate: what it measures against numpy and transformers, and what it lets through."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.accuracy import ACCURACY_FILE, compare
from enginery.accuracy_report import AccuracyError, AccuracyReport, Gate
from enginery.builder.engine.verification import verify_files
from enginery.cli.main import main
from enginery.quantization import E4M3_MAX, float32_to_e4m3
from enginery.runtime.tokenizer import Tokenizer
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import add_scales, read_tensors
from tests.support.schemes import build_engine

LIMITS = ("--max_seq_len", "128", "--max_batch_size", "2")


@pytest.fixture(scope="module")
def text(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "some.txt"
    path.write_text((demo / "heldout.txt").read_text(encoding="utf-8")[:3000], encoding="utf-8")
    return path


def no_progress(done: int, total: int) -> None:
    assert 0 <= done <= total


def build(*flags: Any) -> int:
    return main(["build", *map(str, flags), *LIMITS])


def identity(model: Path) -> str:
    """The SHA-256 of the digests of a checkpoint of one weight file."""
    files = [model / name for name in ("config.json", "model.safetensors")]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def test_an_engine_is_its_own_equal(demo: Path, text: Path, tmp_path: Path) -> None:
    engine = build_engine(demo, tmp_path / "engine", "bfloat16", max_seq_len=128)
    report = compare(engine, engine, text, no_progress)
    assert report.perplexity == report.reference_perplexity
    assert (report.perplexity_increase, report.kl_divergence_mean) == (0, 0)
    assert report.top1_agreement == 1


def test_figures_are_those_of_transformers(demo: Path, text: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = build_engine(demo, tmp_path / "reference", "float32", max_seq_len=128)
    engine = build_engine(demo, tmp_path / "engine", "w4a8_dynamic", max_seq_len=128)
    report = compare(engine, reference, text, no_progress)

    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)
    token_ids = Tokenizer(demo).encode(text.read_text(encoding="utf-8"), add_special_tokens=False)
    assert report.num_tokens == len(token_ids)
    nll = []
    for begin in range(0, len(token_ids), report.window):
        piece = token_ids[begin : begin + report.window]
        with torch.inference_mode():
            logits = model(torch.tensor([[model.config.bos_token_id, *piece[:-1]]])).logits[0]
        losses = torch.nn.functional.cross_entropy(
            logits.double(), torch.tensor(piece), reduction="none"
        )
        nll += losses.tolist()
    assert report.reference_perplexity == pytest.approx(math.exp(np.mean(nll)), rel=1e-5)
    # Four bits cost something, and not much.
    assert 0 < report.perplexity_increase < 0.05
    assert 0 < report.kl_divergence_mean < report.kl_divergence_p99
    assert 0.8 < report.top1_agreement < 1


def test_a_build_writes_what_it_measured(
    demo: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engine"
    flags = ("--model", demo, "--output", output, "--qformat", "int8_dynamic")
    gate = ("--max_perplexity_increase", "2%", "--min_top1_agreement", "0.9")
    assert build(*flags, "--accuracy_check", text, *gate, "--json") == 0
    told = json.loads(capsys.readouterr().out)["accuracy"]
    assert json.loads((output / ACCURACY_FILE).read_text(encoding="utf-8")) == told
    assert told["engine"]["qformat"] == "int8_dynamic"
    assert told["reference"]["qformat"] == "none"
    assert told["reference"]["model"] == "demo"
    assert told["reference"]["model_sha256"] == identity(demo)
    worst, *others = told["layers"]
    assert all(worst["snr_db"] <= other["snr_db"] for other in others)
    assert sum(layer["noise_share"] for layer in told["layers"]) == pytest.approx(1)
    assert (worst["dtype"], worst["activation_dtype"]) == ("i8", "i8")
    names = []
    verify_files(output, lambda name, _: names.append(name))
    assert ACCURACY_FILE in names
    # The checkpoint's own text.
    assert build(*flags, "--overwrite", "--accuracy_check") == 0
    described = capsys.readouterr().out
    assert "Accuracy on heldout.txt" in described
    lines = described.partition("of each layer alone:\n")[2].splitlines()
    assert [line.strip().partition(":")[0] for line in lines[:3]] == [
        layer["name"] for layer in told["layers"][:3]
    ]
    assert lines[3].endswith(f"leaves a layer out, e.g. {worst['parts'][0]}")


def test_an_engine_that_lost_too_much_is_not_there(
    demo: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "engine"
    flags = ("--model", demo, "--output", output, "--qformat", "w4a8_dynamic")
    gate = ("--max_perplexity_increase", "0.0001", "--min_top1_agreement", "99.9%")
    assert build(*flags, "--accuracy_check", text, *gate) == 1
    captured = capsys.readouterr()
    assert "Accuracy on some.txt" in captured.out
    assert "the engine was not written: perplexity rose by" in captured.err
    assert "0.01% is allowed; top-1 agreement is" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == []
    assert build(*flags, "--accuracy_check", text, *gate, "--json") == 1
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"]["layers"][0]["dtype"] == "i4"
    assert result["accuracy"]["num_tokens"] > 100 and "perplexity rose" in result["error"]


def test_a_nan_is_not_good_enough() -> None:
    report = AccuracyReport(math.nan, 1.0, math.nan, math.nan, math.nan, 0.0, 1, 1, {}, {}, {})
    with pytest.raises(AccuracyError, match="perplexity rose by nan%"):
        Gate(max_perplexity_increase=0.5).check(report)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (("--max_perplexity_increase", "1%"), "accuracy_check: is not given"),
        (("--accuracy_check", "--dry_run"), "accuracy_check: measures an engine; dry_run"),
        (("--accuracy_check",), "has no heldout.txt"),
        (("--accuracy_check", "nowhere.txt"), "nowhere.txt: is not a file"),
        (("--reference_model", "."), "accuracy_check: is not given; reference_model is for it"),
    ],
)
def test_flags_that_make_no_sense(
    flags: tuple[str, ...], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "llama")
    assert build("--model", model, "--output", tmp_path / "engine", *flags) == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("value", ["2", "-1%", "1%%", "much"])
def test_a_share_is_a_percentage_or_a_number(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        build("--model", tmp_path, "--output", tmp_path, f"--min_top1_agreement={value}")
    assert "is not a share such as 1% or 0.01" in capsys.readouterr().err


def test_a_text_of_one_token_is_refused(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text("")
    flags = ("--model", demo, "--output", tmp_path / "engine")
    assert build(*flags, "--accuracy_check", tmp_path / "empty.txt") == 2
    assert "has 0 tokens; give more" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


@pytest.fixture
def quantised(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint that is stored in FP8, with a text beside it, and the original."""
    original = write_tiny_checkpoint(tmp_path / "original", "llama")
    model = add_scales(write_tiny_checkpoint(tmp_path / "model", "llama"), "fp8")
    tensors, dtypes = read_tensors(model / "model.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        scale = np.abs(tensors[name]).max() / np.float32(E4M3_MAX)
        tensors[name] = float32_to_e4m3(tensors[name] / scale)
        tensors[f"{name}_scale"] = np.array(scale)
        dtypes |= {name: "F8_E4M3", f"{name}_scale": "F32"}
    write_safetensors(model / "model.safetensors", tensors, dtypes)
    (model / "heldout.txt").write_text("It was the best of times, it was the worst of times. " * 4)
    return model, original


def test_a_quantised_model_is_measured_against_its_original(
    quantised: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, original = quantised
    flags = ("--model", model, "--output", tmp_path / "engine", "--qformat", "fp8", "--json")
    assert build(*flags, "--accuracy_check", "--reference_model", original) == 0
    told = json.loads(capsys.readouterr().out)["accuracy"]
    assert told["engine"]["qformat"] == "fp8"
    assert told["reference"]["model"] == "original"
    assert told["reference"]["model_sha256"] == identity(original)
    assert told["reference"]["qformat"] == "none"
    assert 0 < told["kl_divergence_mean"] < 0.1
    by_name = {layer["name"]: layer for layer in told["layers"]}
    assert by_name.pop("lm_head")["snr_db"] > 45
    assert all(20 < layer["snr_db"] < 40 for layer in by_name.values())


def test_a_reference_without_a_tokenizer_takes_the_models(
    quantised: tuple[Path, Path], tmp_path: Path
) -> None:
    model, original = quantised
    for path in original.glob("*token*"):
        path.unlink()
    flags = ("--model", model, "--output", tmp_path / "engine", "--qformat", "fp8")
    assert build(*flags, "--accuracy_check", "--reference_model", original) == 0


def test_a_quantised_model_needs_a_reference(
    quantised: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = quantised
    flags = ("--model", model, "--output", tmp_path / "engine", "--qformat", "fp8")
    assert build(*flags, "--accuracy_check") == 2
    told = capsys.readouterr().err
    assert f"reference_model: is not given, and the weights of {model} are quantised" in told
    assert "give --reference_model DIR, the original checkpoint" in told
    assert build(*flags, "--accuracy_check", "--reference_model", model) == 2
    assert f"reference_model: the weights of {model} are quantised already" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"family": "llama", "vocab_size": 321}, "vocab_size of {} is 321, that of the model 320"),
        ({"family": "llama", "num_layers": 3}, "num_layers of {} is 3, that of the model 2"),
        ({"family": "qwen3"}, "{} is a Qwen3ForCausalLM, the model a LlamaForCausalLM"),
    ],
)
def test_a_reference_of_another_shape(
    other: dict[str, Any],
    part: str,
    quantised: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, _ = quantised
    reference = write_tiny_checkpoint(tmp_path / "other", **other)
    flags = ("--model", model, "--output", tmp_path / "engine", "--qformat", "fp8")
    assert build(*flags, "--accuracy_check", "--reference_model", reference) == 2
    assert f"reference_model: {part.format(reference)}" in capsys.readouterr().err


def test_a_reference_with_another_tokenizer(
    quantised: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, original = quantised
    tokenizer = original / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    flags = ("--model", model, "--output", tmp_path / "engine", "--qformat", "fp8")
    assert build(*flags, "--accuracy_check", "--reference_model", original) == 2
    assert f"{tokenizer} differs from {model / 'tokenizer.json'}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_engine_for_a_gpu_is_measured_emulated(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = add_scales(shutil.copytree(demo, tmp_path / "demo"), "fp8")
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times.")
    flags = ("--model", model, "--output", tmp_path / "engine", "--sku", "h100", "--qformat", "fp8")
    assert build(*flags, "--accuracy_check", tmp_path / "text.txt", "--json") == 0
    told = json.loads(capsys.readouterr().out)["accuracy"]
    assert told["engine"]["target"] == "tensorrt"
