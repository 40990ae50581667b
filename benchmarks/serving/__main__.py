# SPDX-License-Identifier: Apache-2.0
"""Puts load on `enginery serve` and on the bare runtime, and compares.

python -m benchmarks.serving run ENGINE --alone --output benchmarks/results/mine/samples.jsonl
python -m benchmarks.serving agree ENGINE --output benchmarks/results/mine/agreement.jsonl
python -m benchmarks.serving backends ENGINE
python -m benchmarks.serving report benchmarks/results/mine/samples.jsonl
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.serving import agree, backends, report, run


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module, summary in (
        ("run", run, "closed and open loops on all sides"),
        ("agree", agree, "aiperf and guidellm beside our own client"),
        ("backends", backends, "`tensorrt_llm` on the Python and on the native backend, in turn"),
        ("report", report, "tables and plot of what `run` wrote"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=getattr(module, name))
    args = parser.parse_args()
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
