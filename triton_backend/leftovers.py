# SPDX-License-Identifier: Apache-2.0
"""What servers leave behind that were killed, and how it is told from what is in use.

The Python backend keeps its messages in /dev/shm under a prefix, and each server has a folder for
its backends. Both names say which process started the server.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "enginery-triton-"


def leftover_prefix() -> str:
    """How the names begin that belong to servers started by this process."""
    return f"{_PREFIX}{_namespace()}-{os.getpid()}-"


def remove_stale_leftovers() -> None:
    """Removes what belongs to processes that are gone."""
    for path in _leftovers(f"{_PREFIX}{_namespace()}-"):
        owner = path.name.split("-")[3]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            _remove(path)


def remove_leftovers(prefix: str) -> None:
    """Removes everything whose name begins with `prefix`; no server may be using it."""
    for path in _leftovers(prefix):
        _remove(path)


def _namespace() -> int:
    """Of process ids: containers may share /dev/shm and have each a process 7."""
    return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - follows the link to what is no file


def _leftovers(prefix: str) -> list[Path]:
    folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
    return [path for folder in folders for path in folder.glob(f"{prefix}*")]


def _remove(path: Path) -> None:
    # Another start may be removing the same, and another user's cannot be removed: both are fine.
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.unlink()
