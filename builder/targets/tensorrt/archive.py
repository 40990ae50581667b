# SPDX-License-Identifier: Apache-2.0
"""ZIP archives as sections of an engine: stored, in sorted order, the same bytes every time.

Stored members lie in the file as they are, so that a kernel or a plan is loaded from the mapping
with no copy, and `unzip -l` lists what a section holds.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that the format can say
UNIX = 3
REGULAR_FILE = 0o100644 << 16


def write_archive(members: Mapping[str, bytes]) -> bytes:
    """Returns the archive of the members by name: ASCII, relative, with `/` between folders."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            assert name.isascii() and ".." not in name.split("/") and not name.startswith("/"), name
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = UNIX, REGULAR_FILE
            archive.writestr(info, members[name])
    return buffer.getvalue()


def read_archive(content: bytes) -> dict[str, bytes]:
    """Returns the members of an archive that `write_archive` made.

    Raises:
        ValueError: it is not one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise ValueError(f"not an archive: {error}") from None


def json_member(value: Any) -> bytes:
    """A JSON document as a member: readable, keys in the order given, a final newline."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
