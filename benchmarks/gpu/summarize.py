# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown of outcomes.jsonl files: loads, prefill, the card's limits, failures.

    python -m benchmarks.gpu.summarize OUTCOMES...

Where a step was run several times, the last that passed counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]

LOAD_COLUMNS = {
    "num_sequences": ("sequences", "d"),
    "ttft_ms_p50": ("TTFT p50, ms", ".1f"),
    "tpot_ms_mean": ("TPOT, ms", ".2f"),
    "output_tokens_per_s": ("output tokens/s", ".0f"),
    "decode_step_ms": ("decode step, ms", ".2f"),
    "decode_gb_per_s": ("GB/s of a step", ".0f"),
    "share_of_bandwidth": ("of the copy bandwidth", ".0%"),
}
PREFILL_COLUMNS = {
    "prompt_tokens": ("prompt tokens", "d"),
    "ttft_ms": ("TTFT, ms", ".1f"),
    "tera_ops_per_s": ("Top/s", ".0f"),
}


def table(records: Iterable[Record], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """Lines of a table with a row per record; empty cells where a record has no such field."""
    heads = ["run", *(head for head, _ in columns.values())]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for record in records:
        cells = [f"{record['group']}, {record['step'].rsplit(', ', 1)[0]}"]
        for name, (_, form) in columns.items():
            cells.append(format(record[name], form) if name in record else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(records: list[Record]) -> list[str]:
    """All tables."""
    last = {(r["group"], r["step"]): r for r in records if r["ok"] and "warm-up" not in r["step"]}
    passed = list(last.values())
    lines: list[str] = []
    for record in (r for r in passed if r["group"] == "limits"):
        shown = {k: v for k, v in record.items() if k not in ("group", "step", "ok", "seconds")}
        lines.append(f"- {record['step']}: {json.dumps(shown)}")
    measured = [r for r in passed if r["group"] in ("throughput", "transformers")]
    loads = [r for r in measured if "num_sequences" in r]
    prefills = [r for r in measured if r["step"].endswith("prefill")]
    for rows, columns in ((loads, LOAD_COLUMNS), (prefills, PREFILL_COLUMNS)):
        if rows:
            lines += ["", *table(rows, columns)]
    failed = [r for r in records if not r["ok"] and (r["group"], r["step"]) not in last]
    lines += ["", f"{len(records)} outcomes, {len(failed)} failed for good"]
    lines += [f"- {r['group']}, {r['step']}: {r['error']}: {r['message']}" for r in failed]
    return lines


def main(paths: list[str]) -> None:
    lines = [line for path in paths for line in Path(path).read_text().splitlines()]
    print("\n".join(summary([json.loads(line) for line in lines])))


if __name__ == "__main__":
    main(sys.argv[1:])
