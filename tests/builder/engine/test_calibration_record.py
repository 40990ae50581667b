# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from enginery.builder.engine.calibration_record import (
    CALIBRATION_FILE,
    MAX_BYTES,
    is_calibrated_checkpoint,
    read_calibration_record,
)
from enginery.builder.errors import CheckpointError
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.schemes import build_engine


def test_a_record_is_any_json_object(tmp_path: Path) -> None:
    assert read_calibration_record(tmp_path) is None
    (tmp_path / CALIBRATION_FILE).write_text('{"by": "somebody else"}')
    assert read_calibration_record(tmp_path) == {"by": "somebody else"}
    assert not is_calibrated_checkpoint(tmp_path)
    (tmp_path / CALIBRATION_FILE).write_text('{"kind": "enginery calibration"}')
    assert is_calibrated_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a JSON list, not an object"),
        ("{", "is not valid JSON"),
        (" " * MAX_BYTES + "{}", f"at most {MAX_BYTES} are read"),
    ],
)
def test_a_malformed_record_stops_the_build(tmp_path: Path, content: str, message: str) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "llama")
    (model / CALIBRATION_FILE).write_text(content)
    assert not is_calibrated_checkpoint(model)
    with pytest.raises(CheckpointError, match=message):
        build_engine(model, tmp_path / "engine", "float32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
