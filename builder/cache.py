# SPDX-License-Identifier: Apache-2.0
"""A cache of what building takes time over, keyed by the content of what it is made from.

An entry is a file `<root>/<kind>/<key>`: one line with the SHA-256 of what follows, then the
content. Whoever wrote it, an entry whose hash does not fit is dropped and made again; entries are
renamed into place, so that builds that run at once never see half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginery.builder.errors import OutputError, Problem

CACHE_DIR_VARIABLE = "ENGINERY_CACHE_DIR"
# Part of every key: raise it when what a key stands for is made differently.
CACHE_VERSION = 1
HEAD = b"enginery cache "


def default_cache_dir() -> Path:
    """$ENGINERY_CACHE_DIR, or else `enginery` in the user's cache folder (XDG)."""
    if named := os.environ.get(CACHE_DIR_VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "enginery"


def content_key(parts: Mapping[str, Any]) -> str:
    """The key of what is made from `parts` (JSON values) and nothing else."""
    text = json.dumps(
        {"cache_version": CACHE_VERSION, **parts}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """The cache in a folder, which is made when something is put.

    Args:
        root: the folder; None keeps nothing and finds nothing.
    """

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def get(self, kind: str, key: str) -> bytes | None:
        """The content under a key, or None where there is none that is whole."""
        if self.root is None:
            return None
        path = self.root / kind / key
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        head, _, content = entry.partition(b"\n")
        if head != _head(content):
            path.unlink(missing_ok=True)
            return None
        return content

    def prepare(self) -> None:
        """Makes the folder and checks that it can be written.

        Raises:
            OutputError: it cannot.
        """
        if self.root is None:
            return
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.root).close()
        except OSError as error:
            problem = Problem(
                "cache_dir",
                f"cannot be written: {error.strerror}",
                "give another with --cache_dir, or --no_cache",
            )
            raise OutputError(str(self.root), [problem]) from None

    def put(self, kind: str, key: str, content: bytes) -> None:
        """Keeps the content under its key.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.root is None:
            return
        folder = self.root / kind
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
            try:
                file.write(_head(content) + b"\n" + content)
                file.close()
                Path(file.name).replace(folder / key)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise


def _head(content: bytes) -> bytes:
    return HEAD + hashlib.sha256(content).hexdigest().encode()
