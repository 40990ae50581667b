# SPDX-License-Identifier: Apache-2.0
"""A directory that is written is there complete or not at all, whenever the writer is killed."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enginery.builder.engine import directory as directory_module
from enginery.builder.engine.directory import EngineDirectory, check_output
from enginery.builder.engine.exchange import exchange
from enginery.builder.errors import OutputError


def write(output: Path, content: str, *, overwrite: bool = False) -> None:
    with EngineDirectory(output, overwrite=overwrite) as directory:
        directory.write_json("manifest.json", {"kind": "enginery"})
        directory.write_json("content.json", {"content": content})
        directory.commit()


def content(output: Path) -> str:
    assert json.loads((output / "manifest.json").read_text()) == {"kind": "enginery"}
    return str(json.loads((output / "content.json").read_text())["content"])


def commit_killed(output: Path, kill_at: int, *, can_exchange: bool) -> bool:
    """Another process commits "new" over `output` and is killed before its step number `kill_at`.

    A step changes names or removes one thing. False when the process ended before.
    """
    pid = os.fork()
    if pid == 0:
        steps = itertools.count(1)

        def killed_before(call: Callable[..., Any]) -> Callable[..., Any]:
            def checked(*args: Any, **options: Any) -> Any:
                if next(steps) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **options)

            return checked

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Path, "rename", killed_before(Path.rename))
                patch.setattr(os, "unlink", killed_before(os.unlink))
                patch.setattr(os, "rmdir", killed_before(os.rmdir))
                change = exchange if can_exchange else lambda *_: False
                patch.setattr(directory_module, "exchange", killed_before(change))
                write(output, "new", overwrite=True)
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("can_exchange", [True, False])
def test_whenever_the_writer_is_killed_one_is_there(can_exchange: bool, tmp_path: Path) -> None:
    found = []
    for kill_at in itertools.count(1):
        output = tmp_path / str(kill_at) / "engine"
        write(output, "old")
        is_killed = commit_killed(output, kill_at, can_exchange=can_exchange)
        if not can_exchange:  # there is a moment with neither, until the next look
            with pytest.raises(OutputError, match="holds an engine already"):
                check_output(output, overwrite=False)
        found.append(content(output))
        write(output, "next", overwrite=True)
        assert content(output) == "next"
        if not is_killed:
            break
    assert len(found) > 3
    assert found == sorted(found, reverse=True), "old, and then new for good"
    assert set(found) == {"old", "new"}
    assert [each.name for each in output.parent.iterdir()] == ["engine"], "nothing else is left"


def test_nothing_is_there_until_the_commit(tmp_path: Path) -> None:
    output = tmp_path / "engine"
    with EngineDirectory(output, overwrite=False) as directory:
        directory.write_json("manifest.json", {"kind": "enginery"})
        assert not output.exists()
    assert list(tmp_path.iterdir()) == []


def test_directories_change_places(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if not exchange(first, second):
        pytest.skip("this file system cannot")
    assert (first / "name").read_text() == "second"
    assert (second / "name").read_text() == "first"
    with pytest.raises(FileNotFoundError, match="missing"):
        exchange(first, tmp_path / "missing")
