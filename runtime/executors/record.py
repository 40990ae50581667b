# SPDX-License-Identifier: Apache-2.0
"""JSON from an engine file, read field by field with the field's path in every error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, Self

from .archive import invalid

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@/-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_INTEGER = 2**48


class Record:
    """A JSON object that is not trusted; a method per kind of field.

    Every method raises `EngineFileError` naming the path of the field, its value and what is
    accepted. Fields that nobody reads are ignored.
    """

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise invalid(path, f"{_short(value)} is not an object")
        self.path = path
        self._fields: dict[str, Any] = value

    @classmethod
    def parse(cls, text: bytes, path: str) -> Self:
        """Reads the object that a whole file is; `path` names the file."""
        try:
            value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise invalid(path, f"not JSON: {error}") from error
        return cls(value, path)

    def fail(self, name: str, accepted: str) -> Exception:
        """The error of a field that is not what is accepted."""
        value = _short(self._fields[name]) if name in self._fields else "missing"
        return invalid(f"{self.path}.{name}", f"{value}; accepted: {accepted}")

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(name) is not None

    def integer(self, name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        """An integer in [low, high]."""
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(name, f"an integer in [{low}, {high}]")
        return value

    def boolean(self, name: str) -> bool:
        """A truth value."""
        value = self._fields.get(name)
        if not isinstance(value, bool):
            raise self.fail(name, "true or false")
        return value

    def string(self, name: str, among: Sequence[str] | None = None) -> str:
        """A string, one of `among` when that is given."""
        value = self._fields.get(name)
        if not isinstance(value, str) or (among is not None and value not in among):
            raise self.fail(name, "a string" if among is None else ", ".join(among))
        return value

    def name(self, name: str) -> str:
        """A string of letters, digits and `_.@/-`, at most 128."""
        value = self._fields.get(name)
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise self.fail(name, "a name of letters, digits and _.@/-, at most 128")
        return value

    def sha256(self, name: str) -> str:
        """64 hexadecimal digits."""
        value = self._fields.get(name)
        if not isinstance(value, str) or not SHA256.fullmatch(value):
            raise self.fail(name, "64 hexadecimal digits")
        return value

    def integers(self, name: str, low: int, high: int, count: int) -> tuple[int, ...]:
        """A list of `count` integers in [low, high]."""
        value = self.array(name)
        if len(value) != count or not all(
            isinstance(item, int) and not isinstance(item, bool) and low <= item <= high
            for item in value
        ):
            raise self.fail(name, f"{count} integers in [{low}, {high}]")
        return tuple(value)

    def array(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise self.fail(name, "a list")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.array(name)
        if not all(isinstance(item, str) for item in value):
            raise self.fail(name, "a list of strings")
        return tuple(value)

    def record(self, name: str) -> Record:
        """An object."""
        if name not in self._fields:
            raise self.fail(name, "an object")
        return Record(self._fields[name], f"{self.path}.{name}")

    def optional(self, name: str) -> Record | None:
        """An object, or None when the field is null or missing."""
        return self.record(name) if self.has(name) else None

    def records(self, name: str) -> list[Record]:
        """A list of objects."""
        return [
            Record(item, f"{self.path}.{name}[{index}]")
            for index, item in enumerate(self.array(name))
        ]

    def items(self) -> Iterator[tuple[str, Record]]:
        """Every field, each an object under a name."""
        for key in self._fields:
            if not NAME.fullmatch(key):
                raise invalid(self.path, f"{key!r} is not a name of letters, digits and _.@/-")
            yield key, self.record(key)

    def scalars(self) -> dict[str, int | float | bool | str | None]:
        """Every field, each a number, a boolean, a string or null."""
        for key, value in self._fields.items():
            is_scalar = value is None or isinstance(value, bool | int | float | str)
            if not is_scalar or (isinstance(value, float) and not isfinite(value)):
                raise self.fail(key, "a finite number, a boolean, a string or null")
        return dict(self._fields)

    def texts(self) -> dict[str, str]:
        """Every field, each a string."""
        for key, value in self._fields.items():
            if not isinstance(value, str):
                raise self.fail(key, "a string")
        return dict(self._fields)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is there twice")
    return fields


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
