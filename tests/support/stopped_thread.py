# SPDX-License-Identifier: Apache-2.0
"""One thread of another process, stopped as a debugger stops it, while the others go on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_SEIZE, _INTERRUPT = 0x4206, 0x4207  # of <sys/ptrace.h>
_ALL_THREADS = 0x40000000  # __WALL of waitpid


@contextlib.contextmanager
def stopped_thread(pid: int, name: str) -> Iterator[None]:
    """Stops the thread of that name until its process ends; skips the test where none may.

    Args:
        pid: of the process, a descendant of this one.
        name: of exactly one of its threads.
    """
    tasks = Path(f"/proc/{pid}/task")
    (tid,) = (int(t.name) for t in tasks.iterdir() if (t / "comm").read_text().strip() == name)
    is_stopped = threading.Event()
    failure: list[int] = []

    def trace() -> None:
        # All of it on one thread: the kernel knows the tracer as one.
        libc = ctypes.CDLL(None, use_errno=True)
        for request in (_SEIZE, _INTERRUPT):
            if libc.ptrace(request, tid, None, None) != 0:
                failure.append(ctypes.get_errno())
                is_stopped.set()
                return
        os.waitpid(tid, _ALL_THREADS)
        is_stopped.set()
        # The process cannot end before its tracer has seen the end of the thread.
        with contextlib.suppress(ChildProcessError):
            while not os.WIFSIGNALED(status := os.waitpid(tid, _ALL_THREADS)[1]):
                if os.WIFEXITED(status):
                    return

    tracer = threading.Thread(target=trace, name="tracer", daemon=True)
    tracer.start()
    is_stopped.wait()
    if failure:
        pytest.skip(f"no thread may be traced here: {os.strerror(failure[0])}")
    yield
    tracer.join(timeout=60)
    assert not tracer.is_alive()
