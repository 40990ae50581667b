# SPDX-License-Identifier: Apache-2.0
"""Calibration as a part of a build: into a folder beside the engine that goes when it is built."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.accuracy import TEXT_FILE as HELD_OUT_FILE
from enginery.builder.build import plan_build
from enginery.builder.options import BuildRequest
from enginery.cli.accuracy_flags import CHECKPOINTS_OWN_TEXT
from enginery.cli.calibration_flags import CalibrationProgress
from enginery.missing_calibration import calibration_text, missing_calibration
from enginery.quantize import QuantizeRequest, plan_quantization, quantize

# Option of a build -> field of `QuantizeRequest`.
CALIBRATION_OPTIONS = {
    "calib_dataset": "calib_dataset",
    "calib_size": "calib_size",
    "calib_max_seq_length": "calib_max_seq_length",
    "calib_batch_size": "batch_size",
    "calib_seed": "seed",
}


@dataclass(frozen=True)
class CalibratedModel:
    """What a build starts from.

    Attributes:
        options: of the build, with the calibrated checkpoint as its model where there is one.
        notes: for the user.
        reads_weights: False for a dry run, which does not calibrate and plans as if it had.
    """

    options: dict[str, Any]
    notes: list[str]
    reads_weights: bool = True


@contextlib.contextmanager
def calibrated_model(given: dict[str, Any]) -> Iterator[CalibratedModel]:
    """Calibrates the model of a build where it lacks what the scheme takes and there is text.

    Args:
        given: the options of the build, those of calibration among them.

    Raises:
        BuildError: what the build would refuse, told before minutes are spent, or what a
            calibration refuses.
        CalibrationError: likewise.
    """
    options = {name: value for name, value in given.items() if name not in CALIBRATION_OPTIONS}
    chosen = {field: given[name] for name, field in CALIBRATION_OPTIONS.items() if name in given}
    model, is_asked = Path(options["model"]), "calib_dataset" in chosen
    missing = missing_calibration(
        model, options.get("qformat", "none"), options.get("kv_cache_dtype", "auto")
    )
    # An FP8 cache is built without scales too, so that text which is merely there changes nothing.
    is_needed = missing is not None and (is_asked or missing.is_required)
    if not is_needed or (not is_asked and calibration_text(model) is None):
        reason = "nothing that this build takes is missing from the checkpoint"
        yield CalibratedModel(options, [f"nothing is calibrated: {reason}"] if chosen else [])
        return
    assert missing is not None
    if options.get("dry_run"):
        note = "a dry run does not calibrate: the plan is as if the checkpoint were calibrated"
        yield CalibratedModel(options, [note], reads_weights=False)
        return
    fields = BuildRequest.__dataclass_fields__
    request = BuildRequest(**{name: options[name] for name in options if name in fields})
    plan_build(request, reads_weights=False)
    output = Path(options["output"]).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{output.name}.calibrated-", dir=output.parent
    ) as folder:
        calibrated = Path(folder) / model.resolve().name
        notes = _calibrate(
            QuantizeRequest(
                model=model,
                output=calibrated,
                qformat=missing.qformat,
                kv_cache_dtype=missing.kv_cache_dtype,
                exclude_modules=request.exclude_modules,
                **chosen,
            ),
            options.get("log_level", "info"),
        )
        yield CalibratedModel(_of_calibrated(options, model, calibrated), notes)


def _calibrate(request: QuantizeRequest, log_level: str) -> list[str]:
    planned = plan_quantization(request)
    is_quiet = log_level in ("error", "warning")
    with CalibrationProgress(sys.stderr, is_silent=is_quiet) as progress:
        record = quantize(planned, progress, is_verbose=log_level == "verbose").record
    dataset, cache = record["dataset"]["name"], record["kv_cache_dtype"]
    formats = record["qformat"] + ("" if cache == "auto" else f" and a KV cache in {cache}")
    done = f"calibrated for qformat {formats} on {record['num_tokens']} tokens of {dataset}"
    return [*planned.notes, f"{done} in {record['seconds']:.1f} s"]


def _of_calibrated(options: dict[str, Any], model: Path, calibrated: Path) -> dict[str, Any]:
    """The options with the calibrated checkpoint, measured beside the one it was made from."""
    options = options | {"model": calibrated}
    if "accuracy_check" in options:
        options.setdefault("reference_model", model)
        if options["accuracy_check"] == CHECKPOINTS_OWN_TEXT:
            options["accuracy_check"] = model / HELD_OUT_FILE
    return options
