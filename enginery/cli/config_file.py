# SPDX-License-Identifier: Apache-2.0
"""A configuration file: the flags of a command as keys of TOML or JSON, read and written."""

from __future__ import annotations

import argparse
import json
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.options import option_problems

# Type of a flag's value -> how a message calls it, and what TOML and JSON may have for it.
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("an integer", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
    Path: ("a text", (str,)),
}


def read_config(path: Path, options: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """The values that a file gives, by the names that the parsed arguments have.

    Args:
        path: a TOML file, or a JSON file where its name ends so.
        options: what it may give, by every name that a key may have. A path in the file is
            relative to the file, so that the file works from anywhere.

    Raises:
        InvalidArgumentError: the file cannot be read, or lists what is wrong in it.
    """
    values: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    problems: list[str] = []
    for key, given in _parse(path).items():
        action = options.get(key.replace("-", "_"))
        if action is None:
            unknown[key] = given
        elif action.dest in values:
            problems.append(f"{key}: gives {action.dest} a second time")
        else:
            try:
                values[action.dest] = _value(action, given, path.parent)
            except ValueError as error:
                problems.append(f"{key} = {given!r}: {error}")
    problems += option_problems(sorted(options), unknown, {})
    if problems:
        raise InvalidArgumentError.from_problems(str(path), problems)
    return values


def write_config(
    groups: Iterable[tuple[str, Sequence[argparse.Action]]], args: argparse.Namespace
) -> str:
    """The file that gives what was parsed; an option without a value is there as a comment.

    Args:
        groups: titles, and the options under each.
        args: what was parsed.
    """
    lines = []
    for title, actions in groups:
        lines.append(f"\n# {title}")
        for action in actions:
            value = getattr(args, action.dest)
            is_unset = value is None
            lines.append(f"# {action.dest} =" if is_unset else f"{action.dest} = {to_toml(value)}")
    return "\n".join(lines).lstrip() + "\n"


def to_toml(value: Any) -> str:
    """A value of a flag as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, Path):
        return to_toml(str(value.absolute()))  # the file may come to lie anywhere
    if isinstance(value, str):
        # The escapes of JSON are among those of TOML, which wants one character more escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return repr(value)


def _parse(path: Path) -> dict[str, Any]:
    is_json = path.suffix == ".json"
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise InvalidArgumentError(f"config = {path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise InvalidArgumentError(f"config = {path}: is nested too deep") from None
    except ValueError as error:
        kind = "JSON" if is_json else "TOML"
        raise InvalidArgumentError(f"config = {path}: is not valid {kind}: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"config = {path}: must hold a JSON object")
    return value


def _value(action: argparse.Action, given: Any, folder: Path) -> Any:
    """What the flag would make of it; raises ValueError that says what is accepted."""
    kind = _kind(action)
    if takes_list(action):
        if not isinstance(given, list):
            raise ValueError(f"must be a list, each item {_KINDS[kind][0]}")
        return [_item(action, kind, item, folder) for item in given]
    return _item(action, kind, given, folder)


def _item(action: argparse.Action, kind: type, given: Any, folder: Path) -> Any:
    name, types = _KINDS[kind]
    if type(given) not in types:  # to Python True is an int
        raise ValueError(f"must be {name}")
    if action.choices is not None and given not in action.choices:
        raise ValueError(f"must be one of {', '.join(map(str, action.choices))}")
    if kind is Path:
        return folder / given
    if kind is bool or not callable(action.type):
        return given
    try:
        return action.type(str(given))
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None


def takes_list(action: argparse.Action) -> bool:
    """Whether a flag has a list of values."""
    return isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")


def _kind(action: argparse.Action) -> type:
    if action.nargs == 0:
        return bool
    convert = action.type or str
    # A function that checks says what it gives.
    kind = convert if isinstance(convert, type) else typing.get_type_hints(convert)["return"]
    assert kind in _KINDS, f"{action.dest} has values of a type that no file can give"
    return typing.cast("type", kind)
