# SPDX-License-Identifier: Apache-2.0
"""Measures the card's own limits, and reads them back to say what share of them was reached.

python -m benchmarks.gpu.limits
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from benchmarks.gpu.steps import Steps

GROUP = "limits"
DTYPES = ("bf16", "fp8", "int8")
# What the matrix units multiply in each scheme.
OPERANDS = {"none": "bf16", "fp8": "fp8", "int8_sq": "int8", "int8_wo": "bf16", "int4_wo": "bf16"}


def measured_limits(outcomes: Path | None = None) -> dict[str, float]:
    """The limits that this run of stages measured: "gb_per_s", and "tera_ops_per_s" by dtype.

    Empty when the stage was not run.
    """
    path = outcomes or Path(os.environ.get("OUT", ".")) / "outcomes.jsonl"
    found: dict[str, float] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if record["group"] == GROUP and record["ok"]:
                if record["step"] == "copy":
                    found["gb_per_s"] = record["gb_per_s"]
                elif record["step"].startswith("matmul "):
                    found[record["step"].removeprefix("matmul ")] = record["tera_ops_per_s"]
    return found


def main() -> None:
    from benchmarks.gpu import card  # torch, which readers of the limits do not need

    steps = Steps(GROUP)
    steps.run("environment", card.environment)
    steps.run("copy", card.copy_bandwidth)
    for dtype in DTYPES:
        steps.run(f"matmul {dtype}", functools.partial(card.matmul_rate, dtype))
    steps.summary()


if __name__ == "__main__":
    main()
