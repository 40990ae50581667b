# SPDX-License-Identifier: Apache-2.0
"""Memory of this machine and of this process, from Linux's /proc and control groups."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

SAMPLE_SECONDS = 0.02
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def host_memory_bytes() -> int:
    """Memory of the machine, or of the container where that is less."""
    total = _kilobytes(Path("/proc/meminfo"), "MemTotal")
    for path in CGROUP_LIMITS:
        try:
            limit = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def anonymous_bytes() -> int:
    """Resident anonymous memory of this process: what it allocated, not the files it maps."""
    return _kilobytes(Path("/proc/self/status"), "RssAnon")


def _kilobytes(path: Path, field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB", path.read_text(encoding="ascii"), re.MULTILINE)
    assert match, f"{path} has no {field}"
    return int(match[1]) * 1024


class PeakMemory:
    """Samples `anonymous_bytes` on a thread of its own while it is entered.

    Attributes:
        peak_bytes: the largest sample; complete after leaving.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak memory", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, anonymous_bytes())

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())
