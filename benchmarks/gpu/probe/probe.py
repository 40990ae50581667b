# SPDX-License-Identifier: Apache-2.0
"""Asks a GPU what it runs of what was built without one.

    python -m benchmarks.gpu.probe.probe GROUP FOLDER

FOLDER holds plans/ (make_plans.py) and kernels/ (compile_kernels.py). Each group is its own
process, so that a crash costs one group. Every outcome is printed and appended to
$OUT/outcomes.jsonl.
"""

from __future__ import annotations

import functools
import pathlib
import sys

from benchmarks.gpu import card
from benchmarks.gpu.steps import Steps

GROUPS = ("card", "kernels", "cpu_plans", "gpu_plans", "graphs")


def probe_card(steps: Steps) -> None:
    """Versions, copy bandwidth and matrix rates."""
    steps.run("environment", card.environment)
    steps.run("copy", card.copy_bandwidth)
    for dtype in ("fp16", "bf16", "fp8", "int8"):
        steps.run(f"matmul {dtype}", functools.partial(card.matmul_rate, dtype))


def main(group: str, folder: pathlib.Path) -> None:
    """Runs one group; TensorRT is imported only by the groups that need it."""
    if group not in GROUPS:
        raise SystemExit(f"unknown group {group!r}: take one of {GROUPS}")
    steps = Steps(group)
    if group == "card":
        probe_card(steps)
    elif group == "kernels":
        from benchmarks.gpu.probe.kernels import probe_kernels

        probe_kernels(steps, folder / "kernels")
    elif group == "graphs":
        from benchmarks.gpu.probe.graphs import probe_graphs

        probe_graphs(steps, folder)
    else:
        from benchmarks.gpu.probe import plans

        run = plans.probe_cpu_plans if group == "cpu_plans" else plans.probe_gpu_plans
        run(steps, folder / "plans")
    steps.summary()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
