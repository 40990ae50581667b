# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("modelopt", reason="calibration needs the extra calib")

import torch

from enginery.cli.main import main
from tests.support.checkpoints import write_safetensors, write_tiny_checkpoint
from tests.support.scales import read_tensors

TEXT = "And the earth was without form, and void; and darkness was upon the deep.\n" * 20
CALIBRATION = ("--calib_size", "3", "--calib_max_seq_length", "64")
TENSOR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The layers are so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "tiny", "llama", dtype="bfloat16")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def nothing_is_calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where torch would be loaded."""

    def calibrate(*args: Any, **options: Any) -> None:
        raise AssertionError("refused too late")

    monkeypatch.setattr("enginery.quantize.calibrate", calibrate)


def quantize(model: Path, output: Path, *flags: Any) -> int:
    given = ["quantize", "--model", model, "--output", output, *flags]
    return main([str(flag) for flag in given])


def build(model: Path, output: Path, *flags: Any) -> int:
    given = ["build", "--model", model, "--output", output, *flags]
    return main([str(flag) for flag in given])


def error_of(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_the_checkpoint_says_what_it_was_made_from(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    flags = ("--qformat", "fp8", "--calib_dataset", text, *CALIBRATION, "--batch-size", 2)
    assert quantize(model, output, *flags, "--seed", 5, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    record = read(output / "calibration.json")
    assert printed["calibration"] == record and printed["output"] == str(output)
    assert printed["weight_bytes"] == (output / "model.safetensors").stat().st_size
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    assert record["dataset"] == {"name": "text.txt", "sha256": sha256}
    assert (record["num_samples"], record["num_tokens"]) == (3, 192)
    assert (record["max_seq_length"], record["batch_size"], record["seed"]) == (64, 2, 5)
    assert (record["qformat"], record["kv_cache_dtype"]) == ("fp8", "auto")
    assert record["exclude_modules"] == [] and record["seconds"] > 0
    assert set(record["versions"]) == {"enginery", "modelopt", "torch", "transformers"}
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert record["source"]["name"] == "tiny"
    assert record["source"]["weights"][0]["sha256"] == weights


def test_too_little_text_is_taken_whole_with_a_note(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text.write_text("one sample")
    assert quantize(model, tmp_path / "out", "--qformat", "fp8", "--calib_dataset", text) == 0
    out, err = capsys.readouterr()
    assert "has 1 windows of at most 512 tokens, fewer than the 512 of calib_size" in err
    assert out.startswith(f"Wrote {tmp_path / 'out'} (") and out.count("\n") == 1


def test_text_that_nothing_is_measured_on_is_not_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--qformat", "int8_wo", "--calib_dataset", tmp_path / "nowhere.txt")
    assert quantize(model, tmp_path / "out", *flags) == 0
    assert "the calibration set is not read" in capsys.readouterr().err
    assert read(tmp_path / "out" / "calibration.json")["dataset"] is None


def test_output_that_is_there_is_replaced_when_it_is_ours_and_asked_for(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    flags = ("--qformat", "int8_wo")
    assert quantize(model, output, *flags) == 0
    assert "give --overwrite" in error_of_second(capsys, quantize(model, output, *flags))
    assert quantize(model, output, *flags, "--overwrite") == 0
    assert "holds something else" in error_of_second(
        capsys, quantize(model, model, *flags, "--overwrite")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


def error_of_second(capsys: pytest.CaptureFixture[str], status: int) -> str:
    assert status == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_calibrated")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--qformat", "fp8"], "has no calibration.txt (give --calib_dataset a UTF-8 text"),
        (["--qformat", "int8_wo", "--kv_cache_dtype", "int8"], "has no calibration.txt"),
        (["--qformat", "none"], "leaves nothing to do"),
        (["--qformat", "fp8", "--calib_size", "0"], "calib_size: 0 is not from 1"),
        (["--qformat", "fp8", "--seed", "-1"], "seed: -1 is not from 0"),
        (["--qformat", "int8_wo", "--exclude_modules", "nothing"], "nothing"),
        (["--qformat", "fp8", "--calib_dataset", "/nowhere"], "/nowhere cannot be read"),
    ],
)
def test_options_are_checked_first(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert message in error_of(capsys, quantize(model, tmp_path / "out", *flags))


@pytest.mark.usefixtures("nothing_is_calibrated")
def test_windows_longer_than_the_model_takes_are_refused(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--qformat", "fp8", "--calib_dataset", text, "--calib_max_seq_length", 513)
    error = error_of(capsys, quantize(model, tmp_path / "out", *flags))
    assert "513 is beyond the model's max_position_embeddings, 512" in error


@pytest.mark.usefixtures("nothing_is_calibrated")
@pytest.mark.parametrize("qformat", ["int4_awq", "w4a8_awq", "int4_wo"])
def test_inputs_that_blocks_do_not_divide_are_refused(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], qformat: str
) -> None:
    model = write_tiny_checkpoint(tmp_path / "odd", "llama", intermediate_size=192)
    flags = ("--qformat", qformat, "--calib_dataset", text)
    error = error_of(capsys, quantize(model, tmp_path / "out", *flags))
    assert "model.layers.0.mlp.down_proj: is 128 x 192" in error
    blocks = ("--awq_block_size", 64)
    with pytest.raises(AssertionError, match="refused too late"):
        quantize(model, tmp_path / "out", *flags, *blocks)
    # Without those layers the checks go on to the calibration.
    with pytest.raises(AssertionError, match="refused too late"):
        quantize(model, tmp_path / "out", *flags, "--exclude_modules", "down_proj")


@pytest.mark.usefixtures("nothing_is_calibrated")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    model = write_tiny_checkpoint(tmp_path / "broken", "llama")
    tensors, dtypes = read_tensors(model / "model.safetensors")
    broken = tensors[TENSOR].copy()
    broken[-1, -1] = value
    write_safetensors(model / "model.safetensors", tensors | {TENSOR: broken}, dtypes)
    error = error_of(capsys, quantize(model, tmp_path / "out", "--qformat", "int8_wo"))
    assert f"{TENSOR}: has values that are NaN or infinite" in error


def test_a_checkpoint_that_is_quantised_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(model, tmp_path / "once", "--qformat", "int8_wo", "--log_level", "error") == 0
    status = quantize(tmp_path / "once", tmp_path / "twice", "--qformat", "int8_wo")
    assert "are quantised already (give the original checkpoint)" in error_of(capsys, status)


@pytest.mark.usefixtures("nothing_is_calibrated")
def test_a_missing_package_is_named_with_the_extra(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "modelopt" else find(name)
    )
    error = error_of(capsys, quantize(model, tmp_path / "out", "--qformat", "int8_wo"))
    assert "calibration needs modelopt" in error and "pip install 'enginery[calib]'" in error


def test_an_engine_is_built_of_it_and_says_so(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--qformat", "fp8", "--kv_cache_dtype", "fp8")
    data = ("--calib_dataset", text, *CALIBRATION)
    assert quantize(model, tmp_path / "calibrated", *flags, *data) == 0
    assert build(tmp_path / "calibrated", tmp_path / "engine", *flags) == 0
    record = read(tmp_path / "calibrated" / "calibration.json")
    manifest = read(tmp_path / "engine" / "manifest.json")
    assert manifest["quantization"]["calibration"] == record
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "engine")]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "calibration" in x)
    assert "fp8, KV cache fp8, 192 tokens of text.txt, sha256 " in line


@pytest.mark.parametrize(
    ("qformat", "kv_cache_dtype"),
    [("fp8", "auto"), ("int8_sq", "int8"), ("int4_awq", "auto"), ("int8_wo", "int8")],
)
def test_build_engine_calibrates_in_one_go(
    model: Path,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    qformat: str,
    kv_cache_dtype: str,
) -> None:
    flags = ("--qformat", qformat, "--kv_cache_dtype", kv_cache_dtype)
    assert build(model, tmp_path / "engine", *flags, "--calib_dataset", text, *CALIBRATION) == 0
    assert f"calibrated for qformat {qformat if qformat != 'int8_wo' else 'none'}" in (
        capsys.readouterr().err
    )
    manifest = read(tmp_path / "engine" / "manifest.json")
    assert manifest["checkpoint"]["name"] == "tiny"
    record = manifest["quantization"]["calibration"]
    assert record["num_tokens"] == 192 and record["source"]["name"] == "tiny"
    # The folder of the calibrated checkpoint is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "text.txt", "tiny"]
    # The same as in two steps.
    asked = qformat if qformat != "int8_wo" else "none"
    two = ("--qformat", asked, "--kv_cache_dtype", kv_cache_dtype, "--calib_dataset", text)
    assert quantize(model, tmp_path / "calibrated", *two, *CALIBRATION) == 0
    assert build(tmp_path / "calibrated", tmp_path / "engine2", *flags) == 0
    engines = [(tmp_path / name / "rank0.engine").read_bytes() for name in ("engine", "engine2")]
    assert engines[0] == engines[1]


def test_the_checkpoints_own_text_is_taken(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(capsys, build(model, tmp_path / "engine", "--qformat", "fp8"))
    assert "give --calib_dataset FILE" in error and "`enginery quantize`" in error
    (model / "calibration.txt").write_text(TEXT)
    assert build(model, tmp_path / "engine", "--qformat", "fp8", *CALIBRATION) == 0
    assert "of calibration.txt" in capsys.readouterr().err
    # An FP8 cache takes 1 for the scales that are missing, and does so still.
    assert build(model, tmp_path / "cache", "--kv_cache_dtype", "fp8") == 0
    assert "calibrated" not in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_calibrated")
def test_a_dry_run_and_a_build_that_lacks_nothing_do_not_calibrate(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--qformat", "fp8", "--calib_dataset", text)
    assert build(model, tmp_path / "engine", *flags, "--dry_run") == 0
    assert "a dry run does not calibrate" in capsys.readouterr().err
    assert build(model, tmp_path / "engine", "--calib_dataset", text) == 0
    assert "nothing is calibrated" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_is_calibrated")
def test_what_the_build_refuses_is_told_before_the_calibration(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--qformat", "fp8", "--calib_dataset", text, "--max_seq_len", 513)
    assert "max_seq_len" in error_of(capsys, build(model, tmp_path / "engine", *flags))
