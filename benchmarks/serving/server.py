# SPDX-License-Identifier: Apache-2.0
"""A running `enginery serve`: where it listens, what it counts, and what CPU time it takes."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PORTS = [f"--{name}_port=0" for name in ("http", "grpc", "metrics", "openai")]
STOP_TIMEOUT_S = 60
RUNTIME = "runtime"
_RUNTIME_THREADS = ("enginery-step", "enginery-worker")
HISTOGRAMS = {
    "ttft": "enginery_time_to_first_token_seconds",
    "itl": "enginery_inter_token_latency_seconds",
    "tpot": "enginery_time_per_output_token_seconds",
    "e2e": "enginery_e2e_request_latency_seconds",
}

Histograms = dict[str, tuple[float, float]]
"""Of each latency the sum in milliseconds and the count."""


class Server:
    """Starts `enginery serve`; a context manager.

    Args:
        engine: its directory.
        options: flags of the command.
        cpus: which it may run on; None: all of this process.
    """

    def __init__(
        self, engine: Path, options: Sequence[str], cpus: Sequence[int] | None = None
    ) -> None:
        command = [sys.executable, "-m", "enginery.cli.main", "serve", str(engine)]
        prefix = [] if cpus is None else ["taskset", "-c", ",".join(map(str, cpus))]
        self._process = subprocess.Popen(
            [*prefix, *command, "--disable_block_reuse", *PORTS, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"enginery serve ended with status {self._process.wait()}")
        self.ready: dict[str, Any] = json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> dict[str, float]:
        """CPU seconds of each kind of process of the server so far.

        The runtime's threads, which compute, count as `RUNTIME` in whatever process they are.
        """
        total: dict[str, float] = collections.defaultdict(float)
        waiting = [self._process.pid]
        while waiting:
            folder = Path(f"/proc/{waiting.pop()}")
            seconds = _cpu_seconds(folder)
            for task in (folder / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
                if (task / "comm").read_text().startswith(_RUNTIME_THREADS):
                    total[RUNTIME] += _cpu_seconds(task)
                    seconds -= _cpu_seconds(task)
            total[_kind(folder)] += seconds
        return dict(total)

    def histograms(self) -> Histograms:
        """So far, from `/metrics`."""
        with urllib.request.urlopen(f"http://{self.ready['metrics']}", timeout=10) as page:
            return read_histograms(page.read().decode())


def read_histograms(text: str) -> Histograms:
    """From a page of metrics."""
    found = {}
    for latency, name in HISTOGRAMS.items():
        pattern = rf"^{name}_(sum|count)(?:\{{.*\}})? (\S+)$"
        values = {kind: float(value) for kind, value in re.findall(pattern, text, re.MULTILINE)}
        found[latency] = (1e3 * values["sum"], values["count"])
    return found


def grown_means(before: Histograms, after: Histograms) -> dict[str, float]:
    """Means in milliseconds of what was observed in between; latencies without any are left out."""
    return {
        name: (after[name][0] - before[name][0]) / count
        for name in after
        if (count := after[name][1] - before[name][1]) > 0
    }


def _kind(folder: Path) -> str:
    command = (folder / "cmdline").read_text().split("\0")
    if "enginery.openai" in command:
        return "front end"
    return {"tritonserver": "tritonserver", "triton_python_b": "model process"}.get(
        (folder / "comm").read_text().strip(), "enginery serve"
    )


def _cpu_seconds(folder: Path) -> float:
    # The name of the command, in parentheses, may hold anything.
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
