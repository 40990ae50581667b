# SPDX-License-Identifier: Apache-2.0
"""Tables of our data files (`configs/`), read so that no entry is overlooked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from enginery.builder.errors import Problems


class TomlTable:
    """A TOML table of which every entry must be taken.

    Whatever is wrong is noted among `problems`, and a value that stands in for it is returned, so
    that a reader goes on to the end of its file.

    Attributes:
        name: what stands before an entry's name in a problem: "" or the tables it is in, with a
            full stop at the end.
        values: the entries.
    """

    def __init__(self, name: str, values: dict[str, Any], problems: Problems, file: str) -> None:
        """Wraps one table.

        Args:
            name: see `name`.
            values: the entries.
            problems: gets what is wrong.
            file: the kind of file, as "a SKU file".
        """
        self.name = name
        self.values = values
        self.problems = problems
        self.file = file
        self._taken: set[str] = set()

    def take(self, name: str, accepts: Callable[[Any], Any], accepted: str) -> Any:
        """The entry, or None after noting that it is missing or not `accepted`."""
        self._taken.add(name)
        if name not in self.values:
            self.problems.add(self.name + name, "is missing")
            return None
        value = self.values[name]
        if not accepts(value):
            self.problems.add(self.name + name, f"{value!r} is not {accepted}")
            return None
        return value

    def count(self, name: str) -> int:
        """A positive integer; 1 where there is none."""
        return self.take(name, is_count, "a positive integer") or 1

    def rate(self, name: str) -> float:
        """A positive number; 1 where there is none."""
        value = self.take(name, _is_rate, "a positive number")
        return float(value) if value is not None else 1.0

    def text(self, name: str) -> str:
        """A string; empty where there is none."""
        return self.take(name, lambda v: isinstance(v, str), "a string") or ""

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where there is none."""

        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        return tuple(self.take(name, accepts, "a list of strings") or ())

    def table(self, name: str) -> TomlTable:
        """A table within this one; empty where there is none."""
        values = self.take(name, lambda v: isinstance(v, dict), "a table") or {}
        return TomlTable(f"{self.name}{name}.", values, self.problems, self.file)

    def tables(self, name: str) -> list[TomlTable]:
        """A list of tables that may be left out."""
        if name not in self.values:
            return []

        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, dict) for item in value)

        found = self.take(name, accepts, "a list of tables") or []
        return [
            TomlTable(f"{self.name}{name}[{index}].", values, self.problems, self.file)
            for index, values in enumerate(found)
        ]

    def note(self, name: str, message: str) -> None:
        """Notes what else is wrong with an entry that is there."""
        if name in self.values:
            self.problems.add(self.name + name, message)

    def note_unknown(self) -> None:
        """Notes every entry that was not taken."""
        for name in sorted(self.values.keys() - self._taken):
            self.problems.add(self.name + name, f"is not an entry of {self.file}")


def is_count(value: Any) -> bool:
    """Whether `value` is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_rate(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value > 0
