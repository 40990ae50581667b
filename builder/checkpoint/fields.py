# SPDX-License-Identifier: Apache-2.0
"""Typed access to a JSON object that anyone may have written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginery.builder.errors import BuildError, Problem, Problems

# A configuration file is a few kilobytes and a tokenizer some tens of megabytes.
MAX_CONFIG_BYTES = 16 << 20


def read_json_object(
    path: Path,
    error: type[BuildError],
    *,
    max_bytes: int = MAX_CONFIG_BYTES,
    fix: str = "give the directory of a Hugging Face checkpoint",
) -> dict[str, Any]:
    """Reads a file that must hold one JSON object with no key given twice.

    Args:
        path: the file.
        error: the exception to raise, with `path` as its subject.
        max_bytes: larger files are refused unread.
        fix: what to do when the file is missing.

    Raises:
        BuildError: of the class `error`, when the file is missing, too large or no such object.
    """

    def fail(message: str, fix: str = "") -> BuildError:
        return error(str(path.parent), [Problem(path.name, message, fix)])

    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise fail(f"is {size} bytes long; at most {max_bytes} are read")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise fail("is missing", fix) from None
    except UnicodeDecodeError as decoding:
        raise fail(f"is not UTF-8: {decoding}") from None
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except RecursionError:
        raise fail("is nested too deeply to be read") from None
    except ValueError as parsing:
        raise fail(f"is not valid JSON: {parsing}") from None
    if not isinstance(value, dict):
        raise fail(f"holds a JSON {type(value).__name__}, not an object")
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads` that refuses an object with a key given twice."""
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r} is given twice")
            seen.add(key)
    return value


class Fields:
    """Reads the entries of a JSON object, noting what is wrong instead of raising.

    After a problem a getter returns a harmless value, so that the caller goes on and finds the
    rest; it must call `Problems.raise_if_any` before it uses what it read.
    """

    def __init__(self, values: Mapping[str, Any], problems: Problems, prefix: str = "") -> None:
        self.values = values
        self.problems = problems
        self.prefix = prefix

    def given(self, name: str) -> bool:
        """Whether the entry is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, *, low: int, high: int, default: int | None = None) -> int:
        """An integer in [low, high]; without a default the entry is required."""
        value = self._value(name, default)
        if value is None:
            return low
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self._note(name, f"{value!r} is not an integer from {low} to {high}")
            return low
        return value

    def number(
        self, name: str, *, above: float | None = None, default: float | None = None
    ) -> float:
        """A finite number, greater than `above` where given."""
        value = self._value(name, default)
        if value is None:
            return 1.0
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or (above is not None and value <= above):
            limit = "" if above is None else f" above {above:g}"
            self._note(name, f"{value!r} is not a finite number{limit}")
            return 1.0
        return float(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        """A boolean: true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            self._note(name, f"{value!r} is neither true nor false")
            return default
        return value

    def string(self, name: str, *, default: str | None = None) -> str:
        """A string."""
        value = self._value(name, default)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._note(name, f"{value!r} is not a string")
            return default or ""
        return value

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One token id, a list of them, or none: as the entries named `..._token_id` are."""
        value = self.values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        good = [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]
        if len(good) != len(ids) or not all(-1 <= i < vocab_size for i in good):
            self._note(name, f"{value!r} is not made of token ids below vocab_size {vocab_size}")
            return ()
        # Some configurations spell "none" as -1.
        return tuple(dict.fromkeys(i for i in good if i >= 0))

    def object(self, name: str) -> Mapping[str, Any]:
        """A JSON object; empty where the entry is missing or null."""
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._note(name, f"{value!r} is not an object")
            return {}
        return value

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is None:
            self._note(name, "is missing")
        return default

    def _note(self, name: str, message: str) -> None:
        self.problems.add(self.prefix + name, message)
