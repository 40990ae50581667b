# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint has to be calibrated for before a build can take it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from enginery.builder.checkpoint.checkpoint import Checkpoint, has_weights
from enginery.builder.checkpoint.config import read_config
from enginery.quantization.calibration_formats import CALIBRATION_FORMATS

TEXT_FILE = "calibration.txt"


@dataclass(frozen=True)
class MissingCalibration:
    """What a checkpoint has to be calibrated for before a build can take it.

    Attributes:
        qformat: of the calibration; "none" where scales of the KV cache alone are missing.
        kv_cache_dtype: likewise; "auto" where those are not.
        is_required: whether there is no engine without it.
    """

    qformat: str
    kv_cache_dtype: str
    is_required: bool


def missing_calibration(
    model: Path, qformat: str, kv_cache_dtype: str
) -> MissingCalibration | None:
    """What a build takes and a checkpoint that is not quantised lacks; None where that is nothing.

    Args:
        model: directory of the checkpoint.
        qformat: of the build.
        kv_cache_dtype: likewise.

    Raises:
        BuildError: the checkpoint cannot be read.
    """
    form = CALIBRATION_FORMATS.get(qformat)
    takes_scales = form is not None and form.reads_data
    takes_kv_scales = kv_cache_dtype in ("fp8", "int8")
    if not (takes_scales or takes_kv_scales) or not has_weights(model):
        return None
    if read_config(model).stored_as is not None:
        return None
    with Checkpoint(model) as checkpoint:
        names = checkpoint.tensors
        lacks_scales = takes_scales and not any(n.endswith(".input_scale") for n in names)
        lacks_kv_scales = takes_kv_scales and not any(n.endswith(".k_scale") for n in names)
    if not (lacks_scales or lacks_kv_scales):
        return None
    return MissingCalibration(
        qformat if lacks_scales else "none",
        kv_cache_dtype if lacks_kv_scales else "auto",
        is_required=lacks_scales or kv_cache_dtype == "int8",
    )


def calibration_text(model: Path) -> Path | None:
    """The calibration set that a checkpoint brings along, None where it has none."""
    path = model / TEXT_FILE
    return path if path.is_file() else None
