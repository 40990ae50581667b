# SPDX-License-Identifier: Apache-2.0
"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

CHUNK_BYTES = 8 << 20


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal, reading it piece by piece."""
    digest = hashlib.sha256()
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
