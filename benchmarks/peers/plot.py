# SPDX-License-Identifier: Apache-2.0
"""Bars as SVG, written by hand: nothing is installed for a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLUMNS = 5  # The measures of one shape and precision stand in one line.
CELL_WIDTH, LABEL_WIDTH, BAR_HEIGHT, TITLE_HEIGHT = 300, 70, 16, 30
BAR_WIDTH = CELL_WIDTH - LABEL_WIDTH - 70
COLOURS = {"enginery": "#1f6feb"}
OTHER_COLOUR = "#9aa4b2"


@dataclass(frozen=True)
class Bar:
    """A side's median and the range of its samples."""

    label: str
    value: float
    low: float
    high: float


def write_svg(path: Path, groups: Mapping[str, Sequence[Bar]]) -> None:
    """Writes one small chart per group, `COLUMNS` in a line, each with its own scale."""
    num_bars = max((len(bars) for bars in groups.values()), default=0)
    height = TITLE_HEIGHT + num_bars * BAR_HEIGHT + 12
    body = [
        _chart(title, bars, index % COLUMNS * CELL_WIDTH, index // COLUMNS * height)
        for index, (title, bars) in enumerate(groups.items())
    ]
    size = f"{COLUMNS * CELL_WIDTH} {-(-len(groups) // COLUMNS) * height}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif"'
    path.write_text("\n".join([f'{head} font-size="10">', *body, "</svg>"]) + "\n")


def _chart(title: str, bars: Sequence[Bar], left: int, top: int) -> str:
    scale = BAR_WIDTH / max((bar.high for bar in bars), default=1.0)
    parts = [f'<text x="{left + 4}" y="{top + 18}" font-weight="bold">{escape(title)}</text>']
    x = left + LABEL_WIDTH
    for index, bar in enumerate(bars):
        y = top + TITLE_HEIGHT + index * BAR_HEIGHT
        low, high = x + bar.low * scale, x + bar.high * scale
        colour = COLOURS.get(bar.label, OTHER_COLOUR)
        parts += [
            f'<text x="{left + 4}" y="{y + 10}">{escape(bar.label)}</text>',
            f'<rect x="{x}" y="{y}" width="{bar.value * scale:.1f}" height="12" fill="{colour}"/>',
            f'<path d="M{low:.1f} {y + 6}H{high:.1f}" stroke="#000"/>',
            f'<text x="{high + 4:.1f}" y="{y + 10}">{bar.value:.4g}</text>',
        ]
    return "\n".join(parts)
