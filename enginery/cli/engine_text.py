# SPDX-License-Identifier: Apache-2.0
"""An engine as text for people."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from enginery.builder.memory_plan import format_bytes

LAYER = re.compile(r"\blayers?([.=])(\d+)\b")


def engine_text(
    manifest: Mapping[str, Any], description: Mapping[str, Any], *, shows_all: bool
) -> str:
    """Returns the text.

    Args:
        manifest: of the engine directory.
        description: of one rank, as `enginery_engine_describe_json` gives it.
        shows_all: whether layers alike are shown one by one.
    """
    tensors, steps = description["tensors"], description["steps"]
    parts = [
        _section("Header", _pairs(description["header"])),
        _section("Attributes", _pairs(description["attributes"])),
        _section("Checkpoint", _checkpoint(manifest)),
        _section("Memory plan", _memory_plan(manifest)),
        _section("Sections", _table(map(_section_row, description["sections"]))),
        _section(
            "Values",
            _table(
                (v["name"], f"{v['dtype']}[{v['rows']}, {v['columns']}]")
                for v in description["values"]
            ),
        ),
        _section(f"Program ({len(steps)} steps)", _folded(map(_step_line, steps), shows_all)),
        _section(
            f"Weights ({len(tensors)} tensors, {format_bytes(sum(t['bytes'] for t in tensors))})",
            _folded(_table(map(_tensor_row, tensors)), shows_all),
        ),
    ]
    return "\n\n".join(parts)


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return _table((name, str(value)) for name, value in values.items())


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Lines with their columns aligned."""
    cells = list(rows)
    if not cells:
        return ["none"]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _checkpoint(manifest: Mapping[str, Any]) -> list[str]:
    checkpoint = manifest["checkpoint"]
    rows = [("name", checkpoint["name"]), ("config.json", checkpoint["config_sha256"])]
    rows += [(file["name"], file["sha256"]) for file in checkpoint["weights"]]
    return _table(rows)


def _memory_plan(manifest: Mapping[str, Any]) -> list[str]:
    return _table(
        (name, format_bytes(value) if name.endswith("_bytes") else str(value))
        for name, value in manifest["memory_plan"].items()
    )


def _section_row(section: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        section["name"],
        f"at {section['offset']}",
        format_bytes(section["bytes"]),
        f"sha256 {section['sha256'][:16]}",
        "checked at open" if section["flags"] & 1 else "checked by verify",
    )


def _tensor_row(tensor: Mapping[str, Any]) -> tuple[str, ...]:
    shape = ", ".join(map(str, tensor["shape"]))
    return (
        tensor["name"],
        f"{tensor['dtype']}[{shape}]",
        tensor["layout"],
        format_bytes(tensor["bytes"]),
    )


def _step_line(step: Mapping[str, Any]) -> str:
    outputs = ", ".join(step["outputs"])
    attributes = dict(step["attributes"])
    operands: list[str] = []
    for name in step["inputs"]:
        # What belongs to the operand before it (`.scale`, `.column_sums`) is shown as its suffix.
        owner = next((n for n in operands if name is not None and name.startswith(f"{n}.")), "")
        operands.append("-" if name is None else name.removeprefix(owner))
    accumulates = attributes.pop("accumulate", 0) == 1 or step["op"] == "add"
    operands += [f"{name}={value}" for name, value in attributes.items()]
    return f"{outputs} {'+=' if accumulates else '='} {step['op']}({', '.join(operands)})"


def _folded(lines: Iterable[str], shows_all: bool) -> list[str]:
    """Shows each run of layers that differ in their number alone once."""
    lines = list(lines)
    if shows_all:
        return lines
    layers: list[tuple[int | None, list[str]]] = []
    for line in lines:
        layer = _layer_of(line)
        # A line that names no layer (an activation, say) belongs to the one before it.
        if layer is None and layers and layers[-1][0] is not None and _is_inside(line):
            layer = layers[-1][0]
        if layers and layers[-1][0] == layer:
            layers[-1][1].append(line)
        else:
            layers.append((layer, [line]))
    folded: list[str] = []
    for pattern, run in itertools.groupby(layers, key=lambda item: _pattern(item[1])):
        group = list(run)
        first, last = group[0][0], group[-1][0]
        if first is None or first == last:
            folded += [line for _, block in group for line in block]
        else:
            folded.append(f"for layer N in {first} .. {last}:")
            folded += [f"  {line}" for line in pattern]
    return folded


def _layer_of(line: str) -> int | None:
    match = LAYER.search(line)
    return int(match[2]) if match else None


def _is_inside(line: str) -> bool:
    """Whether a step without a layer's name stands within a layer."""
    return any(f"= {op}(" in line for op in ("silu_mul", "all_reduce", "add"))


def _pattern(block: list[str]) -> tuple[str, ...]:
    return tuple(LAYER.sub(lambda m: m[0].replace(m[2], "N"), line) for line in block)
