# SPDX-License-Identifier: Apache-2.0
"""Steps of a probe: each runs alone, and its outcome is printed and appended to outcomes.jsonl."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

Outcome = dict[str, Any]


class Steps:
    """Runs named steps; one that raises is recorded and the next one runs."""

    def __init__(self, group: str) -> None:
        out = pathlib.Path(os.environ.get("OUT", "."))
        self.group, self.path = group, out / "outcomes.jsonl"
        self.outcomes: list[Outcome] = []

    def run(self, name: str, step: Callable[[], Outcome]) -> Outcome | None:
        """Runs `step` and records what it returns, or the exception it raised."""
        begin = time.perf_counter()
        record: Outcome = {"group": self.group, "step": name}
        try:
            result = step()
            record |= {"ok": True} | result
        except Exception as error:
            result = None
            record |= {"ok": False, "error": type(error).__name__, "message": str(error)[:4000]}
        record["seconds"] = round(time.perf_counter() - begin, 2)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        rest = {k: v for k, v in record.items() if k not in ("group", "step", "ok")}
        print("PASS" if record["ok"] else "FAIL", name, json.dumps(rest), flush=True)
        self.outcomes.append(record)
        return result

    def summary(self) -> None:
        """Prints how many steps passed and which failed."""
        failed = [o["step"] for o in self.outcomes if not o["ok"]]
        print(f"{self.group}: {len(self.outcomes) - len(failed)} passed, failed: {failed}")
