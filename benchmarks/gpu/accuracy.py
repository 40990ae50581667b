# SPDX-License-Identifier: Apache-2.0
"""What the demo's engines say of the held-out text on a GPU, and what the CPU foretold of it.

    python -m benchmarks.gpu.accuracy FOLDER [--names NAME,...]

FOLDER is what `demo` describes. Each engine is compared with the float32 reference and with the
cpu engine of its own scheme (`enginery.accuracy.compare`). Outcomes go to $OUT/outcomes.jsonl.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from benchmarks.gpu.demo import DEMO_ENGINES, HELD_OUT, DemoEngine, reference
from benchmarks.gpu.steps import Outcome, Steps
from enginery.accuracy import compare
from enginery.accuracy_report import AccuracyReport


def accuracy(folder: Path, engine: DemoEngine) -> Outcome:
    """One engine's figures: `gpu` and `cpu` beside float32, and `gpu_beside_cpu`."""
    on_gpu, on_cpu, exact = engine.on_gpu(folder), engine.on_cpu(folder), reference(folder)
    pairs = {
        "gpu": (on_gpu, exact),
        "cpu": (on_cpu, exact),
        "gpu_beside_cpu": (on_gpu, on_cpu),
    }
    return {
        name: figures(compare(one, other, HELD_OUT, lambda _done, _all: None))
        for name, (one, other) in pairs.items()
    }


def figures(report: AccuracyReport) -> dict[str, Any]:
    """The report's figures alone, rounded."""
    return {
        "perplexity": round(report.perplexity, 4),
        "perplexity_increase": round(report.perplexity_increase, 5),
        "kl_divergence_mean": round(report.kl_divergence_mean, 6),
        "kl_divergence_p99": round(report.kl_divergence_p99, 6),
        "top1_agreement": round(report.top1_agreement, 4),
        "num_tokens": report.num_tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the demo's engines on a GPU")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", help="engines, with commas between; all unless given")
    args = parser.parse_args()
    wanted = None if args.names is None else set(args.names.split(","))
    steps = Steps("accuracy")
    for engine in DEMO_ENGINES:
        if wanted is None or engine.name in wanted:
            steps.run(engine.name, functools.partial(accuracy, args.folder, engine))
    steps.summary()


if __name__ == "__main__":
    main()
