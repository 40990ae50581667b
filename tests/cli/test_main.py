# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import enginery
from enginery.cli import build_engine, main
from enginery.cli.flags import FlagParser


class RefusedError(Exception):
    """Stands for a typed exception of the package."""


RefusedError.__module__ = "enginery.runtime.errors"


def install_command(
    monkeypatch: pytest.MonkeyPatch, name: str, outcome: int | BaseException
) -> list[argparse.Namespace]:
    """Puts a subcommand that returns or raises `outcome` in place of `name`; returns its calls."""
    calls: list[argparse.Namespace] = []

    def add_arguments(parser: FlagParser) -> None:
        parser.add_argument("--num_requests", type=int, default=0)

    def run(args: argparse.Namespace) -> int:
        calls.append(args)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = ModuleType(f"enginery.cli.{name}", "An example.")
    module.__dict__.update(add_arguments=add_arguments, run=run)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_subcommand_gets_its_arguments_and_gives_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = install_command(monkeypatch, "bench", 3)
    assert main.main(["bench", "--num-requests", "5"]) == 3
    assert calls[0].num_requests == 5


def test_build_engine_is_the_build_command(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install_command(monkeypatch, "build", 0)
    assert build_engine.main(["--num_requests=2"]) == 0
    assert calls[0].num_requests == 2


@pytest.mark.parametrize(
    "error", [RefusedError("max_batch_size: got 0"), FileNotFoundError(2, "No such file", "x")]
)
def test_an_error_for_the_user_is_told_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    install_command(monkeypatch, "inspect", error)
    assert main.main(["inspect"]) == 2
    assert capsys.readouterr().err == f"enginery inspect: error: {error}\n"


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    install_command(monkeypatch, "inspect", ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main.main(["inspect"])


def test_an_interrupt_is_exit_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    install_command(monkeypatch, "serve", KeyboardInterrupt())
    assert main.main(["serve"]) == 130


def test_unknown_command_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["biuld"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "'biuld'" in error
    assert "build, quantize, estimate, inspect" in error


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    shown = capsys.readouterr().out
    assert all(command.help in shown for command in main.COMMANDS)


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"enginery {enginery.__version__}\n"


@pytest.mark.parametrize("name", [command.name for command in main.COMMANDS])
def test_every_listed_command_is_there_and_documents_itself(name: str) -> None:
    folder = Path(main.__file__).parent
    assert (folder / f"{name}.py").exists()
    script = Path(sys.executable).with_name("enginery")
    ran = subprocess.run([script, name, "--help"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f"usage: enginery {name}" in ran.stdout
