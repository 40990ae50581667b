# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enginery.cli.flags import FlagParser


def parser() -> FlagParser:
    made = FlagParser(prog="example")
    made.add_argument("--max_batch_size", type=int)
    made.add_argument("--dry-run", action="store_true")
    made.add_argument("--stop", nargs="*")
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize("flag", ["--max_batch_size", "--max-batch-size", "--max-batch_size"])
@pytest.mark.parametrize("joined", [True, False])
def test_every_spelling_of_a_flag_is_read(flag: str, joined: bool) -> None:
    args = [f"{flag}=7"] if joined else [flag, "7"]
    assert parser().parse_args(args).max_batch_size == 7


@pytest.mark.parametrize("flag", ["--dry_run", "--dry-run"])
def test_a_flag_declared_in_kebab_case_is_read_in_both(flag: str) -> None:
    assert parser().parse_args([flag]).dry_run


def test_help_shows_one_spelling() -> None:
    text = parser().format_help()
    assert "--max_batch_size" in text
    assert "--max-batch-size" not in text


def test_values_and_what_follows_two_dashes_are_left_alone() -> None:
    given = ["--max_batch_size=1", "--", "--max-batch-size", "a-b"]
    args = parser().parse_args(given)
    assert args.max_batch_size == 1
    assert args.rest == ["--max-batch-size", "a-b"]


def test_a_value_with_an_equals_sign_stays_whole() -> None:
    made = FlagParser()
    made.add_argument("--chat_template")
    assert made.parse_args(["--chat-template=a=b-c"]).chat_template == "a=b-c"


@pytest.mark.parametrize("flag", ["--max_batch", "--no-such-flag", "--max_batch_sizes"])
def test_abbreviated_and_unknown_flags_are_refused(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args([f"{flag}=7"])
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err
