# SPDX-License-Identifier: Apache-2.0
"""Lines as SVG, written by hand: nothing is installed for a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLUMNS = 3
WIDTH, HEIGHT = 380, 260
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 34
COLOURS = ("#444c56", "#1f6feb", "#2da44e", "#bf3989", "#d4a72c")


@dataclass(frozen=True)
class Line:
    """A side: solid at P50, dashed at P99.

    Attributes:
        label: its name.
        colour: index of its colour, the same in all panels.
        points: x, P50, P99.
    """

    label: str
    colour: int
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Panel:
    """A chart with linear x and logarithmic y from a power of ten to another.

    Attributes:
        title: above it, what y is.
        x_title: below it.
        lines: one or more, of points above 0.
        limit: a y that should not be passed; None: there is none.
    """

    title: str
    x_title: str
    lines: Sequence[Line]
    limit: float | None


def write_svg(path: Path, panels: Sequence[Panel]) -> None:
    """Writes the charts, `COLUMNS` in a line."""
    body = [
        _chart(panel, index % COLUMNS * WIDTH, index // COLUMNS * HEIGHT)
        for index, panel in enumerate(panels)
    ]
    size = f"{COLUMNS * WIDTH} {-(-len(panels) // COLUMNS) * HEIGHT}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif"'
    path.write_text("\n".join([f'{head} font-size="10">', *body, "</svg>"]) + "\n")


def _chart(panel: Panel, left: int, top: int) -> str:
    values = [y for line in panel.lines for _, *ys in line.points for y in ys if y > 0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    x_max = max(x for line in panel.lines for x, *_ in line.points)
    right, bottom = left + WIDTH - RIGHT, top + HEIGHT - BOTTOM

    def at(x: float, y: float) -> str:
        share = (math.log10(max(y, 10**low)) - low) / (high - low)
        across = left + LEFT + x / x_max * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{bottom - share * (HEIGHT - TOP - BOTTOM):.1f}"

    def across(y: float, style: str) -> str:
        return f'<polyline points="{at(0, y)} {at(x_max, y)}" fill="none" {style}/>'

    parts = [
        f'<text x="{left + 4}" y="{top + 14}" font-weight="bold">{escape(panel.title)}</text>',
        f'<text x="{right}" y="{bottom + 26}" text-anchor="end">{escape(panel.x_title)}</text>',
    ]
    for power in range(low, high + 1):
        label_y = float(at(0, 10**power).split(",")[1]) + 3
        parts += [
            across(10**power, 'stroke="#d0d7de"'),
            f'<text x="{left + LEFT - 4}" y="{label_y}" text-anchor="end">{10**power:g}</text>',
        ]
    for share in (0.0, 0.5, 1.0):
        x = left + LEFT + share * (WIDTH - LEFT - RIGHT)
        label = f"{share * x_max:.3g}"
        parts.append(f'<text x="{x}" y="{bottom + 12}" text-anchor="middle">{label}</text>')
    if panel.limit is not None and 10**low < panel.limit < 10**high:
        parts.append(across(panel.limit, 'stroke="#cf222e" stroke-dasharray="2 2"'))
    for index, line in enumerate(panel.lines):
        colour = COLOURS[line.colour]
        for column, dashes in ((1, ""), (2, ' stroke-dasharray="5 3"')):
            points = " ".join(at(point[0], point[column]) for point in line.points)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"{dashes}/>')
        y = top + TOP + 8 + 12 * index
        x = left + LEFT + 6
        parts.append(f'<text x="{x}" y="{y}" fill="{colour}">{escape(line.label)}</text>')
    return "\n".join(parts)
