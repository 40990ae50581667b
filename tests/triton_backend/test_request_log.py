# SPDX-License-Identifier: Apache-2.0
"""The lines of requests are those of the golden file.

The native backend is compared with the same file, in
tests/cpp/triton_backend/triton_request_log_test.cc. After a change run this file as a module to
write the lines anew (python -m tests.triton_backend.test_request_log), then follow in C++.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginery.runtime.errors import error_of
from enginery.triton_backend.request_log import FORMATS, Now, RequestLog, client_request_id_of
from tests.support.events import golden_event

GOLDEN = Path(__file__).parent / "golden" / "request_log.txt"
NUM_EVENT_FIELDS = 11


def given() -> list[str]:
    """The lines of the file that are not results, with its comments."""
    lines = GOLDEN.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.split(" ")[0] in ("#", "event", "refused")]


def written(form: str) -> list[str]:
    lines: list[str] = []
    end = Now(1795810000045, 30_000_000_000)
    log = RequestLog(form, "enginery", lines.append, lambda: end)
    for line in given():
        kind, _, rest = line.partition(" ")
        if kind == "event":
            *fields, client_id = (rest + " ").split(" ", NUM_EVENT_FIELDS)
            log.add(golden_event(fields), client_id.strip())
        elif kind == "refused":
            status, client_id, error = rest.split(" ", 2)
            log.refuse(client_id, error_of(status, error))
    assert all(line.endswith("\n") for line in lines)
    assert not log._requests, "something is kept of requests that have ended"
    return [line[:-1] for line in lines]


def results() -> list[str]:
    return [f"{form} {line}" for form in FORMATS for line in written(form)]


def test_lines_are_those_of_the_golden_file() -> None:
    assert GOLDEN.read_text(encoding="utf-8").splitlines() == [*given(), *results()]


def test_both_forms_tell_the_same() -> None:
    for text, line in zip(written("text"), written("json"), strict=True):
        pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', text)
        found = {name: json.loads(value) if value[0] == '"' else value for name, value in pairs}
        fields = json.loads(line)
        assert found == {name: "-" if v is None else str(v) for name, v in fields.items()}


def test_nothing_is_written_when_it_is_off() -> None:
    assert written("") == []


def test_ids_cannot_forge_a_line() -> None:
    lines: list[str] = []
    for form in FORMATS:
        RequestLog(form, "m", lines.append).refuse(
            "a\nevent=request", error_of("NOT_FOUND", "b\nc")
        )
    assert all(line.count("\n") == 1 for line in lines)


def test_ids_that_are_not_fit_for_a_log() -> None:
    def not_utf8() -> str:
        return b"\xff".decode()

    def named(text: str) -> Any:
        return SimpleNamespace(request_id=lambda: text)

    assert client_request_id_of(named("chat-7")) == "chat-7"
    assert client_request_id_of(named("é" * 128)) == "é" * 128
    assert client_request_id_of(named("é" * 129)) == "(258 bytes)"
    assert client_request_id_of(SimpleNamespace(request_id=not_utf8)) == "(not UTF-8)"


@pytest.mark.parametrize("form", FORMATS)
def test_default_is_standard_error(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    RequestLog(form, "m").refuse("chat-7", error_of("NOT_FOUND", "gone"))
    assert "chat-7" in capsys.readouterr().err


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in [*given(), *results()]), encoding="utf-8")
