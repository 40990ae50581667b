# SPDX-License-Identifier: Apache-2.0
"""Show what is in an engine: header, memory plan, program, weights, and what was compiled for it.

Layers that differ in nothing but their number are shown once; --all shows every one. For GPUs the
segments, plans and kernels of every SKU are shown with their sizes and resources.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from enginery.builder.engine.verification import check_entries, read_manifest
from enginery.cli.engine_text import engine_text
from enginery.cli.flags import FlagParser
from enginery.cli.segments_text import segments_json, segments_text
from enginery.runtime.engine import Engine

SEGMENTED_TARGET = "tensorrt"


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery inspect`."""
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="engine directory")
    parser.add_argument("--rank", type=int, default=0, help="rank to show as text (default: 0)")
    parser.add_argument("--all", action="store_true", help="show every layer")
    parser.add_argument("--json", action="store_true", help="print everything, all ranks, as JSON")


def run(args: argparse.Namespace) -> int:
    """Shows the engine; see `add_arguments`."""
    manifest = read_manifest(args.engine)
    check_entries(args.engine, manifest)
    with Engine.open(args.engine) as engine:
        if args.json:
            ranks = [_describe(engine, rank) for rank in range(engine.info.tp_size)]
            document: dict[str, Any] = {"manifest": manifest, "ranks": ranks}
            print(json.dumps(document, indent=2))
        else:
            print(engine_text(manifest, engine.describe(args.rank), shows_all=args.all))
            if engine.info.target == SEGMENTED_TARGET:
                print("\n" + segments_text(engine, args.rank))
    return 0


def _describe(engine: Engine, rank: int) -> dict[str, Any]:
    """A rank's description, with segments, kernels and plans where it has them."""
    description = dict(engine.describe(rank))
    if engine.info.target == SEGMENTED_TARGET:
        description |= segments_json(engine, rank)
    return description
