# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import enginery.runtime
from enginery.runtime import abi, library
from enginery.runtime.errors import (
    EngineFileError,
    EngineryError,
    InvalidArgumentError,
    LibraryNotFoundError,
    error_of,
)


@pytest.fixture
def fresh_loader() -> Iterator[None]:
    """The loader remembers the library; a test that loads another must not leave it behind."""
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def test_statuses_have_the_names_of_the_header() -> None:
    loaded = library.load_library()
    for name, value in abi.STATUSES.items():
        assert loaded.enginery_status_name(value).decode() == name
    assert loaded.enginery_status_name(12345) == b"UNKNOWN"


@pytest.mark.usefixtures("fresh_loader")
def test_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ENGINERY_LIBRARY", raising=False)
    monkeypatch.setattr(enginery.runtime, "__path__", [str(tmp_path / "a"), str(tmp_path / "b")])
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    with pytest.raises(LibraryNotFoundError, match="pip install") as caught:
        library.load_library()
    for place in ("a/lib", "b/lib", "site-packages/enginery/runtime/lib"):
        assert str(tmp_path / place / "libenginery.so") in str(caught.value)


@pytest.mark.usefixtures("fresh_loader")
def test_override_that_is_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "libenginery.so"
    monkeypatch.setenv("ENGINERY_LIBRARY", str(file))
    with pytest.raises(LibraryNotFoundError, match="not found"):
        library.load_library()
    file.write_bytes(b"not a library")
    with pytest.raises(LibraryNotFoundError, match="cannot be loaded"):
        library.load_library()


@pytest.mark.usefixtures("fresh_loader")
def test_refuses_another_abi_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "ABI_VERSION", 999)
    with pytest.raises(LibraryNotFoundError, match="ABI version 1; this Python package speaks 999"):
        library.load_library()


@pytest.mark.usefixtures("fresh_loader")
def test_refuses_a_library_without_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(abi.FUNCTIONS, "enginery_not_there", (None, ()))
    with pytest.raises(LibraryNotFoundError, match="enginery_not_there"):
        library.load_library()


def test_exceptions_follow_the_status() -> None:
    error = error_of("TRUNCATED", "rank0.engine: 12 bytes")
    assert isinstance(error, EngineFileError)
    assert error.status == "TRUNCATED"
    assert isinstance(error_of("INVALID_ARGUMENT", "x"), InvalidArgumentError)
    assert isinstance(error_of("INVALID_ARGUMENT", "x"), ValueError)
    assert type(error_of("INTERNAL", "x")) is EngineryError
