# SPDX-License-Identifier: Apache-2.0
"""Summarises outcomes.jsonl files as one JSON object.

    python -m benchmarks.gpu.summarize OUTCOMES... > summary.json

Refusals are grouped by their words; times of repeated passes become [lowest, highest].
"""

from __future__ import annotations

import json
import pathlib
import sys
from collections import defaultdict
from typing import Any

Record = dict[str, Any]


def refusals(records: list[Record]) -> list[Record]:
    """Failed steps by message, in the order first met."""
    by_message: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if not record["ok"]:
            by_message[record["message"]].append(f"{record['group']}: {record['step']}")
    return [{"message": message, "steps": steps} for message, steps in by_message.items()]


def segment_times(records: list[Record]) -> Record:
    """Microseconds of one graph replay by step and number of tokens."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["ok"] and record["group"] == "native_segment":
            for tokens, row in record.items():
                if tokens.startswith("tokens="):
                    times[record["step"]][tokens].append(row["us"])
    return {
        step: {tokens: [round(min(v), 1), round(max(v), 1)] for tokens, v in rows.items()}
        for step, rows in times.items()
    }


def passed(records: list[Record], group: str) -> dict[str, Record]:
    """The last outcome of each step of `group` that passed, without its bookkeeping."""
    hidden = ("group", "step", "ok", "seconds")
    return {
        r["step"]: {k: v for k, v in r.items() if k not in hidden}
        for r in records
        if r["ok"] and r["group"] == group
    }


def main(paths: list[str]) -> None:
    lines = [line for p in paths for line in pathlib.Path(p).read_text().splitlines()]
    records: list[Record] = [json.loads(line) for line in lines]
    card = passed(records, "card")
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"passed": 0, "failed": 0})
    for record in records:
        counts[record["group"]]["passed" if record["ok"] else "failed"] += 1
    summary = {
        "machine": card.pop("environment", None),
        "steps": counts,
        "card": card,
        "native_segment_us": segment_times(records),
        "refusals": refusals(records),
    }
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
