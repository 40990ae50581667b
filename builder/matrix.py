# SPDX-License-Identifier: Apache-2.0
"""Which SKU builds which scheme and which dtype of the KV cache (`configs/schemes.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginery.builder.errors import MatrixError, Problem, Problems
from enginery.builder.toml_table import TomlTable
from enginery.quantization import CODE_KV_DTYPES, SCHEMES

MATRIX_FILE = "schemes.toml"
AUTO = "auto"  # a KV cache of the build dtype
KV_CACHE_DTYPES = ("float32", "bfloat16", "float16", *CODE_KV_DTYPES)


@dataclass(frozen=True)
class Row:
    """What is said of one scheme, or of one dtype of the KV cache.

    Attributes:
        skus: the SKUs that it is built for.
        nearest: what to take where it cannot be had, the nearest first.
        reasons: of every other SKU, why it is not built for it.
    """

    skus: tuple[str, ...]
    nearest: tuple[str, ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class Matrix:
    """The file, whole: every SKU is decided in every row.

    Attributes:
        schemes: by `qformat`, in the order of the file.
        kv_cache_dtypes: by dtype, likewise.
    """

    schemes: Mapping[str, Row]
    kv_cache_dtypes: Mapping[str, Row]

    def qformats_of(self, sku: str) -> tuple[str, ...]:
        """The schemes that are built for a SKU."""
        return tuple(name for name, row in self.schemes.items() if sku in row.skus)

    def kv_cache_dtypes_of(self, sku: str) -> tuple[str, ...]:
        """The dtypes of the KV cache that are built for a SKU."""
        return tuple(name for name, row in self.kv_cache_dtypes.items() if sku in row.skus)


def parse_matrix(text: str, skus: Sequence[str]) -> Matrix:
    """Parses `configs/schemes.toml`.

    Args:
        text: its content.
        skus: the names of all SKUs.

    Raises:
        MatrixError: with every missing, unknown or malformed entry, and everything that is left
            undecided or decided twice.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = Problem("file", f"is not valid TOML: {error}")
        raise MatrixError(MATRIX_FILE, [problem]) from None
    problems = Problems(MATRIX_FILE, MatrixError)
    table = TomlTable("", values, problems, MATRIX_FILE)
    matrix = Matrix(
        _rows(table.table("schemes"), tuple(SCHEMES), skus),
        _rows(table.table("kv_cache_dtypes"), KV_CACHE_DTYPES, skus, always=(AUTO,)),
    )
    table.note_unknown()
    problems.raise_if_any()
    return matrix


def _rows(
    table: TomlTable, names: Sequence[str], skus: Sequence[str], always: tuple[str, ...] = ()
) -> dict[str, Row]:
    """Reads a row for each of `names`.

    Args:
        table: holds them.
        names: the rows that must be there.
        skus: the names of all SKUs.
        always: what `nearest` may name beside rows, for it is built everywhere.
    """
    parts = {name: table.table(name) for name in names}
    table.note_unknown()
    # A row that is not there, or is no table, has been noted: once is enough.
    found = {
        name: _row(part, skus)
        for name, part in parts.items()
        if isinstance(table.values.get(name), dict)
    }
    for name, row in found.items():
        others = [*(other for other in names if other != name), *always]
        for near in row.nearest:
            if near not in others:
                parts[name].note("nearest", f"{near!r} is not one of {', '.join(others)}")
        for sku in row.reasons:
            # A reason alone leaves its reader where they were.
            if not any(near in always or _builds(found.get(near), sku) for near in row.nearest):
                parts[name].note("nearest", f"names nothing that is built for {sku}")
    # In the order of the file, which is that of what a refusal lists.
    return {name: found[name] for name in table.values if name in found}


def _builds(row: Row | None, sku: str) -> bool:
    return row is not None and sku in row.skus


def _row(table: TomlTable, skus: Sequence[str]) -> Row:
    built, nearest = table.strings("skus"), table.strings("nearest")
    decided, reasons = list(built), {}
    for group in table.tables("refused"):
        refused = group.strings("skus")
        decided += refused
        reasons.update(dict.fromkeys(refused, group.text("reason")))
        if not refused:
            group.note("skus", "names no SKU")
        if group.values.get("reason") == "":
            group.note("reason", "is empty")
        group.note_unknown()
    table.note_unknown()
    row = table.name.rstrip(".")
    for sku in sorted(set(decided)):
        if sku not in skus:
            table.problems.add(row, f"{sku!r} is not a SKU; there are {', '.join(skus)}")
        elif decided.count(sku) > 1:
            table.problems.add(row, f"decides SKU {sku} more than once")
    undecided = [sku for sku in skus if sku not in decided]
    if undecided:
        table.problems.add(
            row, f"does not decide SKU {', '.join(undecided)}", "add it to skus or to refused"
        )
    return Row(built, nearest, reasons)
