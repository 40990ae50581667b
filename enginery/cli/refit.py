# SPDX-License-Identifier: Apache-2.0
"""Put the weights of another checkpoint of the same shape, such as a fine-tune, into an engine.

Nothing is compiled: kernels, plans and options are the old engine's. Only weights are read,
quantised as the engine was, and written. The old engine stays as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from enginery.builder.build import build
from enginery.builder.memory_plan import format_bytes
from enginery.cli.build_progress import BuildProgress
from enginery.cli.flags import FlagParser
from enginery.refit import plan_refit


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery refit`."""
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="engine directory")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR",
        help="directory of the Hugging Face checkpoint whose weights to take",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="engine directory to write"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the engine that is in --output"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Refits the engine; see `add_arguments`."""
    planned, artifacts = plan_refit(args.engine, args.model, args.output, overwrite=args.overwrite)
    with BuildProgress(sys.stderr) as progress:
        summary = build(planned, progress, artifacts)
    if args.json:
        print(
            json.dumps(
                {
                    "output": str(summary.output),
                    "seconds": round(summary.seconds, 3),
                    "file_bytes": list(summary.file_bytes),
                },
                indent=2,
            )
        )
    else:
        size = format_bytes(sum(summary.file_bytes))
        print(f"Wrote {summary.output} ({size}) in {summary.seconds:.1f} s; nothing was compiled")
    return 0
