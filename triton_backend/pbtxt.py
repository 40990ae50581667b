# SPDX-License-Identifier: Apache-2.0
"""Writes protobuf text format, as Triton server reads in `config.pbtxt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union


class Symbol(str):
    """An enum value: written without quotes."""

    __slots__ = ()


Field: TypeAlias = Union[bool, int, float, str, "Message", Sequence["Field"]]
Message: TypeAlias = Mapping[str, Field]


def to_pbtxt(message: Message, indent: int = 0) -> str:
    """The text of a message.

    Args:
        message: field name to value, in order. A mapping is a nested message, a list a repeated
            field (numbers and symbols on one line), a str is quoted, a Symbol is not.
        indent: spaces before each line.
    """
    lines: list[str] = []
    for name, value in message.items():
        lines += _field(name, value, " " * indent)
    return "".join(f"{line}\n" for line in lines)


def _field(name: str, value: Field, pad: str) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{pad}{name} {{", *to_pbtxt(value, len(pad) + 2).splitlines(), f"{pad}}}"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if value and all(isinstance(item, int | float | Symbol) for item in value):
            return [f"{pad}{name}: [ {', '.join(_scalar(item) for item in value)} ]"]
        return [line for item in value for line in _field(name, item, pad)]
    return [f"{pad}{name}: {_scalar(value)}"]


def _scalar(value: Field) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        return str(value)
    if isinstance(value, str):
        return f'"{_escape(value)}"'
    return repr(value)


def _escape(text: str) -> str:
    """Escapes what would end or alter a quoted string; other bytes as octal, which keeps UTF-8."""
    special = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "".join(
        special.get(char)
        or (char if " " <= char <= "~" else "".join(f"\\{byte:03o}" for byte in char.encode()))
        for char in text
    )
