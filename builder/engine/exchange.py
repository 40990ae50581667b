# SPDX-License-Identifier: Apache-2.0
"""Two directories change places in one step, which Python's `os` has no call for."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# Of kernels, C libraries and file systems without it, NFS among them.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def exchange(first: Path, second: Path) -> bool:
    """Gives each of two directories on one file system the other's name, atomically.

    Returns:
        Whether it was done; False where the system or the file system has no such operation.

    Raises:
        OSError: it has, and it failed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
