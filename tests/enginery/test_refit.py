# SPDX-License-Identifier: Apache-2.0
"""`enginery refit`: an engine with other weights is the engine that a build would have made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.main import main
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.schemes import build_engine

TARGETS: dict[str, dict[str, Any]] = {
    "cpu": {"scheme": "int8_dynamic", "tp_size": 2},
    "cpu, INT4": {"scheme": "bfloat16", "qformat": "w4a8_dynamic"},
    "tensorrt": {"scheme": "bfloat16", "sku": "h100"},
}
LIMITS: dict[str, Any] = {"max_batch_size": 4, "max_num_tokens": 64, "max_seq_len": 128}


@pytest.mark.parametrize("target", TARGETS)
def test_equals_a_build(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_tiny_checkpoint(tmp_path / "before", "llama", seed=1)
    # A fine-tune often ends its turns with a token of its own.
    special = {"bos_token_id": 4, "eos_token_id": [3, 5]}
    after = write_tiny_checkpoint(tmp_path / "after", "llama", seed=2, config_overrides=special)
    options = TARGETS[target] | LIMITS
    engine = build_engine(before, tmp_path / "engine", **options)
    expected = build_engine(after, tmp_path / "expected", **options)

    output = tmp_path / "refitted"
    status = main(["refit", str(engine), "--model", str(after), "--output", str(output), "--json"])
    assert status == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(output)
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in output.iterdir()) == names
    for name in names:
        assert (output / name).read_bytes() == (expected / name).read_bytes(), name
    assert (engine / "rank0.engine").read_bytes() != (output / "rank0.engine").read_bytes()
    assert main(["verify", str(output)]) == 0


def test_refuses_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = build_engine(write_tiny_checkpoint(tmp_path / "llama", "llama"), tmp_path / "engine")
    other = write_tiny_checkpoint(tmp_path / "other", "llama", num_layers=3)
    arguments = ["--model", str(other), "--output", str(tmp_path / "refitted")]
    assert main(["refit", str(engine), *arguments]) == 2
    message = capsys.readouterr().err
    assert "num_layers is 3" in message and "same shape" in message
    assert not (tmp_path / "refitted").exists()


def test_refuses_a_folder_that_is_no_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "llama")
    arguments = ["--model", str(model), "--output", str(tmp_path / "refitted")]
    assert main(["refit", str(tmp_path), *arguments]) == 2
    assert "refit: error:" in capsys.readouterr().err
