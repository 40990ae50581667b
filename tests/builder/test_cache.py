# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from pathlib import Path

import pytest

from enginery.builder.cache import Cache, content_key, default_cache_dir
from enginery.builder.errors import OutputError


def test_what_is_put_is_found_under_its_key_and_kind_alone(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "not" / "there")
    assert cache.get("kernels", "a") is None
    for content in (b"", b"\n", bytes(range(256)) * 99):
        cache.put("kernels", "a", content)
        assert cache.get("kernels", "a") == content
        assert Cache(cache.root).get("kernels", "a") == content
    assert cache.get("plans", "a") is None and cache.get("kernels", "b") is None


@pytest.mark.parametrize("cut", [0, 1, 30, 79, 80, 99])
def test_what_is_cut_short_is_not_there(tmp_path: Path, cut: int) -> None:
    cache = Cache(tmp_path)
    cache.put("kernels", "a", b"x" * 20)
    path = tmp_path / "kernels" / "a"
    whole = path.read_bytes()
    assert len(whole) > cut
    path.write_bytes(whole[:cut])
    assert cache.get("kernels", "a") is None
    assert not path.exists(), "an entry that is not whole is dropped"
    cache.put("kernels", "a", b"new")
    assert cache.get("kernels", "a") == b"new"


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("plans", "a", b"content")
    path = tmp_path / "plans" / "a"
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        assert cache.get("plans", "a") is None, position


def test_no_cache_keeps_nothing(tmp_path: Path) -> None:
    cache = Cache(None)
    cache.put("kernels", "a", b"x")
    assert cache.get("kernels", "a") is None


def test_writers_at_once_leave_a_whole_entry_and_nothing_else(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=cache.put, args=("k", "a", text)) for text in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("k", "a") in contents
    assert [path.name for path in (tmp_path / "k").iterdir()] == ["a"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        Cache(tmp_path).put("k", "a", b"x")
    assert not list((tmp_path / "k").iterdir())


def test_keys_depend_on_the_content_and_not_on_its_order() -> None:
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    keys = {content_key(p) for p in ({}, {"a": 1}, {"a": "1"}, {"a": None}, {"b": 1}, {"a": [1]})}
    assert len(keys) == 6


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ENGINERY_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == tmp_path / ".cache" / "enginery"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache_dir() == Path("/x/enginery")
    monkeypatch.setenv("ENGINERY_CACHE_DIR", "/y")
    assert default_cache_dir() == Path("/y")


def test_a_cache_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    Cache(None).prepare()
    Cache(tmp_path / "new" / "folder").prepare()
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cache_dir: cannot be written: .* or --no_cache\)"):
        Cache(tmp_path / "file").prepare()
