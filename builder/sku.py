# SPDX-License-Identifier: Apache-2.0
"""SKU files (`configs/skus/*.toml`): the hardware that engines are built for."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from enginery.builder.errors import OptionError, Problem, Problems, SkuError

SKU_PACKAGE = "enginery.configs"


@dataclass(frozen=True)
class Sku:
    """One SKU.

    Attributes:
        name: as in `--sku` and in the engine's header.
        target: the target that it is lowered to.
        dtypes, qformats, kv_cache_dtypes: what may be built for it.
        memory_bytes: its memory; None is that of the machine that plans.
        kv_cache_fraction: share of what weights and workspace leave for the KV cache by default.
        max_batch_size, max_num_tokens, tokens_per_block: default limits.
        accepted_tokens_per_block: the block sizes that its kernels take.
    """

    name: str
    target: str
    dtypes: tuple[str, ...]
    qformats: tuple[str, ...]
    kv_cache_dtypes: tuple[str, ...]
    memory_bytes: int | None
    kv_cache_fraction: float
    max_batch_size: int
    max_num_tokens: int
    tokens_per_block: int
    accepted_tokens_per_block: tuple[int, ...]


def sku_names() -> list[str]:
    """Names of the SKUs that engines can be built for."""
    return sorted(Path(entry.name).stem for entry in _folder().iterdir() if _is_sku(entry))


def load_sku(name: str) -> Sku:
    """Loads a SKU by name.

    Raises:
        OptionError: there is none of that name.
        SkuError: its file is malformed.
    """
    if name not in sku_names():
        problem = Problem("sku", f"{name!r} is not known; known are {', '.join(sku_names())}")
        raise OptionError("options", [problem])
    return parse_sku(name, (_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def parse_sku(name: str, text: str) -> Sku:
    """Parses a SKU file.

    Args:
        name: the file's name without its ending, which the entry `name` must repeat.
        text: its content.

    Raises:
        SkuError: with every missing, unknown or malformed entry.
    """
    problems = Problems(f"{name}.toml", SkuError)
    try:
        table = _Table("", tomllib.loads(text), problems)
    except tomllib.TOMLDecodeError as error:
        raise SkuError(f"{name}.toml", [Problem("file", f"is not valid TOML: {error}")]) from None
    memory, defaults = table.table("memory"), table.table("defaults")
    accepted = table.table("accepted")
    memory_bytes = memory.take("bytes", lambda v: v == "host" or _is_count(v), "host or a size")
    sku = Sku(
        name=table.take("name", lambda v: v == name, f"{name!r}, the name of the file"),
        target=table.take("target", lambda v: isinstance(v, str), "a string"),
        dtypes=table.strings("dtypes"),
        qformats=table.strings("qformats"),
        kv_cache_dtypes=table.strings("kv_cache_dtypes"),
        memory_bytes=None if memory_bytes == "host" else memory_bytes,
        kv_cache_fraction=memory.take(
            "kv_cache_fraction", lambda v: isinstance(v, float) and 0 < v <= 1, "above 0, at most 1"
        ),
        max_batch_size=defaults.count("max_batch_size"),
        max_num_tokens=defaults.count("max_num_tokens"),
        tokens_per_block=defaults.count("tokens_per_block"),
        accepted_tokens_per_block=tuple(
            accepted.take(
                "tokens_per_block",
                lambda v: isinstance(v, list) and v and all(map(_is_count, v)),
                "a list of positive integers",
            )
            or ()
        ),
    )
    for part in (table, memory, defaults, accepted):
        part.note_unknown()
    problems.raise_if_any()
    return sku


class _Table:
    """A TOML table of which every entry must be taken."""

    def __init__(self, name: str, values: dict[str, Any], problems: Problems) -> None:
        self.name = name
        self.values = values
        self.problems = problems
        self._taken: set[str] = set()

    def take(self, name: str, accepts: Any, accepted: str) -> Any:
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
        return self.take(name, _is_count, "a positive integer") or 1

    def strings(self, name: str) -> tuple[str, ...]:
        def accepts(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)

        return tuple(self.take(name, accepts, "a list of strings") or ())

    def table(self, name: str) -> _Table:
        values = self.take(name, lambda v: isinstance(v, dict), "a table") or {}
        return _Table(f"{name}.", values, self.problems)

    def note_unknown(self) -> None:
        for name in self.values.keys() - self._taken:
            self.problems.add(self.name + name, "is not an entry of a SKU file")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _folder() -> Traversable:
    return resources.files(SKU_PACKAGE) / "skus"


def _is_sku(entry: Traversable) -> bool:
    return entry.name.endswith(".toml")
