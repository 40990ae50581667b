# SPDX-License-Identifier: Apache-2.0
"""The accuracy gate: what it measures against numpy and transformers, and what it lets through."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.accuracy import ACCURACY_FILE, AccuracyError, AccuracyReport, Gate, compare
from enginery.builder.engine.verification import verify_files
from enginery.cli.main import main
from enginery.runtime.tokenizer import Tokenizer
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.scales import add_scales
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
    names = []
    verify_files(output, lambda name, _: names.append(name))
    assert ACCURACY_FILE in names
    # The checkpoint's own text.
    assert build(*flags, "--overwrite", "--accuracy_check") == 0
    assert "Accuracy on heldout.txt" in capsys.readouterr().out


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
