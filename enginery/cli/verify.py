# SPDX-License-Identifier: Apache-2.0
"""Check an engine: sizes and hashes of its files and of every section in them.

Exits with 0 when everything is as it was built, with 2 and the list of what is not otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from enginery.builder.engine.verification import verify_files
from enginery.builder.memory_plan import format_bytes
from enginery.cli.flags import FlagParser
from enginery.cli.progress import Progress
from enginery.runtime.engine import Engine


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery verify`."""
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="engine directory")
    parser.add_argument("--json", action="store_true", help="print what was checked as JSON")


def run(args: argparse.Namespace) -> int:
    """Verifies the engine; see `add_arguments`."""
    files: list[dict[str, str | int]] = []

    def report(name: str, num_bytes: int) -> None:
        files.append({"name": name, "bytes": num_bytes})
        if not args.json:
            print(f"  ok  {name:<28}{format_bytes(num_bytes):>10}", flush=True)

    verify_files(args.engine, report)
    # The files are those that were built; now that what was built agrees with itself.
    with Engine.open(args.engine) as engine, Progress(sys.stderr, verb="checking sections") as bar:
        engine.verify(bar.update)
        num_sections = [
            len(engine.describe(rank)["sections"]) for rank in range(engine.info.tp_size)
        ]
    if args.json:
        print(json.dumps({"files": files, "num_sections": num_sections}, indent=2))
    else:
        print(f"{args.engine}: {len(files)} files and {sum(num_sections)} sections are intact")
    return 0
