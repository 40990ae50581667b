# SPDX-License-Identifier: Apache-2.0
"""`calibration.json`: what `enginery quantize` says of the checkpoint that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.builder.checkpoint.fields import read_json_object
from enginery.builder.errors import CheckpointError

CALIBRATION_FILE = "calibration.json"
# What tells a record of ours from any other file of that name.
CALIBRATION_KIND = "enginery calibration"
MAX_BYTES = 1 << 20


def read_calibration_record(directory: Path) -> dict[str, Any] | None:
    """The record of a checkpoint, None where it has none.

    Raises:
        CheckpointError: it is too large, or no JSON object.
    """
    if not (directory / CALIBRATION_FILE).exists():
        return None
    return read_json_object(directory / CALIBRATION_FILE, CheckpointError, max_bytes=MAX_BYTES)


def is_calibrated_checkpoint(directory: Path) -> bool:
    """Whether this program wrote the checkpoint in a directory."""
    try:
        record = read_calibration_record(directory)
    except (CheckpointError, OSError):
        return False
    return record is not None and record.get("kind") == CALIBRATION_KIND
