# SPDX-License-Identifier: Apache-2.0
"""Titled blocks and aligned columns of text."""

from __future__ import annotations

from collections.abc import Iterable

Row = tuple[str, ...]


def section(title: str, lines: Iterable[str]) -> str:
    """The lines indented under a title."""
    return "\n".join([title, *(f"  {line}" for line in lines)])


def table(rows: Iterable[Row]) -> list[str]:
    """Lines with their columns aligned; a row of one cell stands across all columns."""
    rows = list(rows)
    columns = zip(*(row for row in rows if len(row) > 1), strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(map(str.ljust, row, widths)).rstrip() if len(row) > 1 else row[0] for row in rows
    ] or ["none"]
