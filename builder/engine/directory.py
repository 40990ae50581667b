# SPDX-License-Identifier: Apache-2.0
"""An engine directory, or another of ours, while it is written: complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from enginery.builder.errors import OutputError, Problem

from .exchange import exchange

MANIFEST_FILE = "manifest.json"
CONFIG_FILE = "config.json"
# What tells a manifest of ours from any other file of that name.
MANIFEST_KIND = "enginery"


def is_engine_directory(path: Path) -> bool:
    """Whether the directory's manifest says that this program wrote it."""
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == MANIFEST_KIND


@dataclass(frozen=True)
class OutputKind:
    """What a directory of ours holds.

    Attributes:
        noun: with its article.
        is_at: whether a directory holds one that this program wrote, which may be replaced.
    """

    noun: str
    is_at: Callable[[Path], bool]


ENGINE = OutputKind("an engine", is_engine_directory)


class EngineDirectory:
    """Collects an engine's files in a temporary folder beside `output`, then renames it.

    Leaving the context without `commit` removes what was written.

    Attributes:
        path: the temporary folder.

    Raises:
        OutputError: from the constructor, when `output` may not be written.
    """

    def __init__(self, output: Path, *, overwrite: bool, kind: OutputKind = ENGINE) -> None:
        self.output = output.absolute()
        check_output(self.output, overwrite=overwrite, kind=kind)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(
            tempfile.mkdtemp(prefix=f".{self.output.name}.partial-", dir=self.output.parent)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file, readable and with a final newline."""
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (self.path / name).write_text(text, encoding="utf-8")

    def commit(self) -> None:
        """Forces everything to the disk and puts it in `output`'s place.

        Whoever opens `output` meanwhile, or after this process was killed, finds what was there or
        what was written, complete. Only a file system without an exchange of names has a moment
        with neither, which `check_output` mends.
        """
        self.path.chmod(0o755)  # mkdtemp's folders are closed to others
        for file in self.path.iterdir():
            _sync(file)
        _sync(self.path)
        if not self.output.exists():
            self.path.rename(self.output)
        elif not exchange(self.path, self.output):
            replaced = _replaced(self.output)
            shutil.rmtree(replaced, ignore_errors=True)  # of a commit that was killed after both
            self.output.rename(replaced)
            self.path.rename(self.output)
            shutil.rmtree(replaced)
        _sync(self.output.parent)


def check_output(output: Path, *, overwrite: bool, kind: OutputKind = ENGINE) -> None:
    """Raises `OutputError` where an engine, or another `kind`, may not be written to `output`.

    What is there is replaced only when it is one of ours and `overwrite` is given. What a commit
    had moved away when it was killed is put back first.
    """
    if not output.exists() and (replaced := _replaced(output.absolute())).exists():
        replaced.rename(output)
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir():
        problem = Problem("output", "is a file", "name a directory")
    elif not kind.is_at(output):
        problem = Problem(
            "output", "is a directory that holds something else", "name a new directory"
        )
    elif not overwrite:
        problem = Problem("output", f"holds {kind.noun} already", "give --overwrite to replace it")
    else:
        return
    raise OutputError(str(output), [problem])


def _replaced(output: Path) -> Path:
    """Where a commit keeps what was in `output` while it cannot exchange the two."""
    return output.with_name(f".{output.name}.replaced")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
