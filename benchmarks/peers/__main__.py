# SPDX-License-Identifier: Apache-2.0
"""Compares the cpu target with its peers on one machine.

In this order:
    python -m benchmarks.peers install
    python -m benchmarks.peers convert
    python -m benchmarks.peers run --output benchmarks/results/mine/samples.jsonl
    python -m benchmarks.peers report benchmarks/results/mine/samples.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.commands import run_commands
from benchmarks.peers import convert, install, report, run
from benchmarks.peers.sides import PRECISIONS, ROOT, SHAPES

COMMANDS = (
    ("install", install, "environments, builds and probes"),
    ("convert", convert, "the same random checkpoints for every side"),
    ("run", run, "measure, in rounds"),
    ("report", report, "table and plot of a samples file"),
)


def add_common(name: str, parser: argparse.ArgumentParser) -> None:
    """Declares where the peers are, and what to convert or measure."""
    if name != "report":
        parser.add_argument("--work_dir", type=Path, default=ROOT / "build" / "peers")
    if name in ("convert", "run"):
        parser.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES)
        parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)


if __name__ == "__main__":
    sys.exit(run_commands("python -m benchmarks.peers", __doc__, COMMANDS, add_common))
