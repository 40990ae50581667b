# SPDX-License-Identifier: Apache-2.0
"""Calibrates the demo on a GPU and on the CPU, and compares what the two measured.

    python -m benchmarks.gpu.calibrate FOLDER [--qformats fp8,int8_sq,...]

The checkpoints are left in FOLDER/DEVICE.QFORMAT. Needs torch, transformers and ModelOpt. Outcomes
go to $OUT/outcomes.jsonl.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import numpy as np

from benchmarks.gpu.demo import DEMO
from benchmarks.gpu.steps import Outcome, Steps
from enginery.builder.checkpoint.safetensors import SafetensorsFile
from enginery.quantize import QuantizeRequest, plan_quantization, quantize

QFORMATS = ("fp8", "int8_sq", "int4_awq", "w4a8_awq")


def calibrated(qformat: str, device: str, output: Path) -> Outcome:
    """Calibrates the demo, KV cache included, into a folder."""
    request = QuantizeRequest(DEMO, output, qformat, "fp8", device=device)
    summary = quantize(plan_quantization(request))
    record = summary.record
    return {name: record[name] for name in ("device", "seconds", "num_tokens", "versions")}


def difference(one: Path, other: Path) -> Outcome:
    """How far two calibrated checkpoints of the same scheme are apart.

    Returns:
        `scales`, `largest_scale_error`: the number of float32 values, which are scales, and their
        largest relative difference; `bytes`, `differing_bytes`: of all other tensors, their bytes
        and the share of them that differ.
    """
    num_scales, num_bytes, worst, differing = 0, 0, 0.0, 0
    first, second = (SafetensorsFile(folder / "model.safetensors") for folder in (one, other))
    assert set(first.tensors) == set(second.tensors)
    for name, entry in first.tensors.items():
        ours, theirs = (np.ascontiguousarray(file.read(name)).ravel() for file in (first, second))
        if entry.dtype == "F32":
            num_scales += ours.size
            worst = max(worst, float(np.max(np.abs(ours - theirs) / np.abs(theirs))))
        else:
            num_bytes += ours.nbytes
            differing += int((ours.view(np.uint8) != theirs.view(np.uint8)).sum())
    return {
        "scales": num_scales,
        "largest_scale_error": worst,
        "bytes": num_bytes,
        "differing_bytes": differing / num_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Calibration on a GPU beside that on the CPU")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qformats", default=",".join(QFORMATS))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    steps = Steps("calibrate")
    for qformat in args.qformats.split(","):
        outputs = [args.folder / f"{device}.{qformat}" for device in ("cuda", "cpu")]
        for output in outputs:
            device = output.name.partition(".")[0]
            steps.run(output.name, functools.partial(calibrated, qformat, device, output))
        steps.run(f"{qformat}, cuda beside cpu", functools.partial(difference, *outputs))
    steps.summary()


if __name__ == "__main__":
    main()
