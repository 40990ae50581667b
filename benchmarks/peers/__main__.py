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

from benchmarks.peers import convert, install, report, run
from benchmarks.peers.sides import PRECISIONS, ROOT, SHAPES


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module, summary in (
        ("install", install, "environments, builds and probes"),
        ("convert", convert, "the same random checkpoints for every side"),
        ("run", run, "measure, in rounds"),
        ("report", report, "table and plot of a samples file"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        if module is not report:
            command.add_argument("--work_dir", type=Path, default=ROOT / "build" / "peers")
        if module in (convert, run):
            command.add_argument("--shape", nargs="+", choices=SHAPES, default=SHAPES)
            command.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
        module.add_arguments(command)
        command.set_defaults(run=getattr(module, name))
    args = parser.parse_args()
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
