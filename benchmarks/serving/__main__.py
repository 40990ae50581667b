# SPDX-License-Identifier: Apache-2.0
"""Puts load on `enginery serve` and on the bare runtime, and compares.

python -m benchmarks.serving run ENGINE --alone --output benchmarks/results/mine/samples.jsonl
python -m benchmarks.serving agree ENGINE --output benchmarks/results/mine/agreement.jsonl
python -m benchmarks.serving backends ENGINE
python -m benchmarks.serving report benchmarks/results/mine/samples.jsonl
"""

from __future__ import annotations

import sys

from benchmarks.commands import run_commands
from benchmarks.serving import agree, backends, report, run

COMMANDS = (
    ("run", run, "closed and open loops on all sides"),
    ("agree", agree, "aiperf and guidellm beside our own client"),
    ("backends", backends, "`tensorrt_llm` on the Python and on the native backend, in turn"),
    ("report", report, "tables and plot of what `run` wrote"),
)

if __name__ == "__main__":
    sys.exit(run_commands("python -m benchmarks.serving", __doc__, COMMANDS))
