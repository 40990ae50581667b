# SPDX-License-Identifier: Apache-2.0
"""benchmarks/schemes.py on a tiny shape, through its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Each is of another checkpoint.
NAMES = ["int8_sq", "int4_awq_zero_points", "w4a8_awq"]


def run_command(name: str, work_dir: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.schemes", name, "--work_dir", str(work_dir)]
    command += ["--only", *NAMES, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_engines_are_built_and_measured(tmp_path: Path) -> None:
    built = run_command("build", tmp_path, "--shape", "tiny-qwen2")
    assert [line.split(":")[0] for line in built.splitlines()] == NAMES
    output = tmp_path / "samples.json"
    work = ["--rounds", "2", "--num_prompts", "1", "--num_decoded", "4"]
    table = run_command("run", tmp_path, "--output", str(output), *work)
    report = json.loads(output.read_text())
    assert list(report["samples"]) == NAMES
    for samples in report["samples"].values():
        assert len(samples) == 2
        assert all(sample["prefill_tok_s"] > 0 < sample["decode_tok_s"] for sample in samples)
    rows = [row.split("|") for row in table.splitlines()[2:]]
    assert [row[1].strip(" `") for row in rows] == NAMES
    size = {row[1].strip(" `"): float(row[2]) for row in rows}
    files = {name: (tmp_path / f"{name}.engine" / "rank0.engine").stat().st_size for name in NAMES}
    assert all(abs(size[name] * 2**20 - files[name]) <= 2**19 for name in NAMES)
