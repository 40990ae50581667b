# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from enginery.cli.flags import FlagParser
from enginery.cli.operations_flags import (
    add_log_flags,
    add_watchdog_flags,
    log_fields,
    print_error,
    print_log,
    request_log_format,
    watchdog_options,
)

LINE = 'E1127 20:06:40.123456 4242 enginery:0] "watchdog: a step has taken 60000 ms"'


def parse(*flags: str) -> tuple[str, dict[str, object]]:
    """The format of request lines, and the options of the runtime, that flags give."""
    parser = FlagParser()
    group = parser.add_argument_group("server")
    add_log_flags(group)
    add_watchdog_flags(group)
    args = parser.parse_args(flags)
    return request_log_format(args), dict(watchdog_options(args))


def test_defaults() -> None:
    assert parse() == ("", {"watchdog_timeout_ms": 300_000, "watchdog_dir": None})


def test_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse("--log_requests")[0] == "text"
    assert parse("--log_requests", "--log_format", "json")[0] == "json"
    assert parse("--log_format=json")[0] == ""
    # tritonserver's model may run in another folder.
    monkeypatch.chdir(tmp_path)
    given = parse("--watchdog_timeout_ms=0", "--watchdog_dir=stalls")[1]
    assert given == {"watchdog_timeout_ms": 0, "watchdog_dir": str(tmp_path / "stalls")}


def test_line_of_tritonserver_is_taken_apart() -> None:
    assert log_fields(LINE) == {
        "level": "error",
        "source": "enginery:0",
        "message": '"watchdog: a step has taken 60000 ms"',
    }
    assert log_fields("I am not one] of them") == {"message": "I am not one] of them"}


def test_every_line_is_an_object_where_that_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = '{"event":"request","model":"é"}'
    for line in (LINE, request, "{not one}", "[1]", ""):
        print_log(line, "json")
    print_error("it died", "json")
    log, same, *others = capsys.readouterr().err.splitlines()
    assert json.loads(log)["level"] == "error"
    assert same == request
    assert [json.loads(line)["message"] for line in others] == ["{not one}", "[1]", "", "it died"]
    assert {json.loads(line)["event"] for line in (log, *others)} == {"log"}


def test_text_is_left_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_log(LINE, "text")
    print_error("it died", "text")
    assert capsys.readouterr().err == f"{LINE}\nenginery serve: error: it died\n"
