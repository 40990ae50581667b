# SPDX-License-Identifier: Apache-2.0
"""--config and --dump_config: every flag of a command is a key of its file."""

from __future__ import annotations

import argparse
import functools
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginery.cli import build, serve
from enginery.cli.config_file import to_toml
from enginery.cli.flags import FlagParser
from enginery.cli.main import main
from enginery.runtime.errors import InvalidArgumentError

COMMANDS = {"serve": serve, "build": build}


@functools.cache
def parser(command: str = "serve") -> FlagParser:
    made = FlagParser(prog=command)
    COMMANDS[command].add_arguments(made)
    return made


def actions(command: str) -> dict[str, argparse.Action]:
    return {a.dest: a for _, group in parser(command).config_groups() for a in group}


OPTIONS = [(command, name) for command in COMMANDS for name in actions(command)]


def parsed(*args: object, command: str = "serve") -> dict[str, Any]:
    found = vars(parser(command).parse_args([str(arg) for arg in args]))
    return {name: value for name, value in found.items() if not name.endswith("config")}


def write(tmp_path: Path, text: str, name: str = "given.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def dumped(capsys: pytest.CaptureFixture[str], *args: object, command: str = "serve") -> str:
    with pytest.raises(SystemExit) as ended:
        parsed(*args, "--dump_config", command=command)
    assert ended.value.code == 0
    return capsys.readouterr().out


def flags(action: argparse.Action) -> Iterator[str]:
    """The option on a command line, with a value that is not the default."""
    if action.option_strings:
        yield action.option_strings[0]
    if action.choices:
        yield str([choice for choice in action.choices if choice != action.default][-1])
    elif action.nargs != 0:
        for value in ("/a \"b\"\\'c'é\x7f", "a.b:c", "0.5", "7"):
            try:
                (action.type or str)(value)  # type: ignore[operator]
            except (ValueError, argparse.ArgumentTypeError):
                continue
            yield value
            break


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_what_was_dumped_is_read_again(
    command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*flags(actions(command)[name])]
    expected = parsed(*given, command=command)
    assert expected[name] != parsed(command=command)[name]
    path = write(tmp_path, dumped(capsys, *given, command=command))
    assert parsed("--config", path, command=command) == expected


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_the_command_line_comes_first(command: str, name: str, tmp_path: Path) -> None:
    action = actions(command)[name]
    given = [*flags(action)]
    expected = parsed(*given, command=command)
    if action.nargs == 0:
        path = write(tmp_path, f"{name} = true\n")
        assert parsed("--config", path, command=command)[name] is True
        turned_off = parsed("--config", path, f"--no-{name}", command=command)
        assert turned_off[name] is False
    else:
        other = to_toml(expected[name]).replace("7", "8").replace("0.5", "0.25").replace("/", "/b/")
        path = write(tmp_path, f"{name} = {other}\n")
        assert parsed("--config", path, *given, command=command) == expected


@pytest.mark.parametrize(("command", "name"), OPTIONS)
def test_a_value_of_the_wrong_type_is_refused(command: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"[{name}]\nx = 1\n")
    with pytest.raises(InvalidArgumentError, match=rf"{name} = \{{'x': 1\}}: must be "):
        parsed("--config", path, command=command)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http_prot = 0", "http_prot: there is no such option; did you mean http_port?"),
        ("http_port = '0'", "http_port = '0': must be an integer"),
        ("http_port = 1.0", "http_port = 1.0: must be an integer"),
        ("http_port = true", "http_port = True: must be an integer"),
        ("exit_timeout = '1'", "exit_timeout = '1': must be a number"),
        ("openai = 1", "openai = 1: must be true or false"),
        ("host = 1", "host = 1: must be a text"),
        ("allow_origin = 'a'", "allow_origin = 'a': must be a list, each item a text"),
        ("allow_origin = [1]", "allow_origin = [1]: must be a text"),
        ("policy = 'FIFO'", "policy = 'FIFO': must be one of GUARANTEED_NO_EVICT"),
        ("num_threads = -1", "num_threads = -1: -1: must be 0 or more"),
        ("free_gpu_memory_fraction = 2", "is not a number above 0 and below 1"),
        ("num_threads = 1\nthreads = 2", "threads: gives num_threads a second time"),
        ("no_openai = true", "no_openai: there is no such option"),
        ("config = 'other.toml'", "config: there is no such option"),
        ("help = true", "help: there is no such option"),
        ("emulate = true\nexecutor = 'a:b'", "gives emulate and executor"),
        ("a = 1\nhost = 2", "2 problems"),
        ("host = ", "is not valid TOML"),
        ("a = " + "[" * 100_000, "is nested too deep"),
    ],
)
def test_files_that_are_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parsed("--config", write(tmp_path, text))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "must hold a JSON object"),
        ("{", "is not valid JSON"),
        ('{"host": null}', "host = None: must be a text"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
def test_json_that_is_refused(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        parsed("--config", write(tmp_path, text, "given.json"))
    assert says in str(refused.value)


def test_the_error_is_told_as_that_of_a_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--config", str(tmp_path / "no.toml")]) == 2
    assert "no.toml: cannot be read: No such file" in capsys.readouterr().err
    assert main(["serve"]) == 2
    assert "engine: is missing; give ENGINE, or engine in --config FILE" in capsys.readouterr().err


def test_json_kebab_case_and_other_names(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"http-port": 1, "threads": 2, "openai": True}), "given.json")
    expected = parsed(*shlex.split("--http_port 1 --num_threads 2 --openai"))
    assert parsed("--config", path) == expected


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "engine = 'engines/demo'\ntokenizer_dir = '/elsewhere'\n")
    found = parsed("--config", path)
    assert found["engine"] == tmp_path / "engines" / "demo"
    assert found["tokenizer_dir"] == Path("/elsewhere")


def test_a_list_on_the_command_line_replaces_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "allow_origin = ['a', 'b']\n")
    assert parsed("--config", path)["allow_origin"] == ["a", "b"]
    found = parsed("--config", path, "--allow_origin", "c", "--allow_origin", "d")
    assert found["allow_origin"] == ["c", "d"]


@pytest.mark.parametrize(
    ("text", "args", "emulate", "executor"),
    [
        ("emulate = true", ["--executor", "a:b"], False, "a:b"),
        ("executor = 'a:b'", ["--emulate"], True, None),
        ("executor = 'a:b'", ["--no_emulate"], False, "a:b"),
        ("emulate = false\nexecutor = 'a:b'", [], False, "a:b"),
    ],
)
def test_what_excludes_it_on_the_command_line_takes_it_back(
    text: str, args: list[str], emulate: bool, executor: str | None, tmp_path: Path
) -> None:
    found = parsed("--config", write(tmp_path, text), *args)
    assert (found["emulate"], found["executor"]) == (emulate, executor)


def test_a_file_is_not_remembered(tmp_path: Path) -> None:
    made = parser()
    made.parse_args(["--config", str(write(tmp_path, "host = 'a'"))])
    assert made.parse_args([]).host == "127.0.0.1"
