# SPDX-License-Identifier: Apache-2.0
"""An engine as text for people."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from enginery.builder.memory_plan import format_bytes
from enginery.cli.text_table import Row, section, table

LAYER = re.compile(r"\blayers?([.=])(\d+)\b")
# The residual stream of segments alternates between two values, `x` and `x.2`.
ALTERNATE = re.compile(r"\b(\w+)\.2\b")


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
    num_bytes = sum(tensor["bytes"] for tensor in tensors)
    folded = list if shows_all else _folded
    parts = [
        section("Header", _pairs(description["header"])),
        section("Attributes", _pairs(description["attributes"])),
        section("Checkpoint", _checkpoint(manifest)),
        *(section(title, _memory_plan(plan)) for title, plan in _memory_plans(manifest).items()),
        section("Sections", table(map(_section_row, description["sections"]))),
        section(
            "Values",
            table(
                (v["name"], f"{v['dtype']}[{v['rows']}, {v['columns']}]")
                for v in description["values"]
            ),
        ),
        section(f"Program ({len(steps)} steps)", table(folded(map(_step_row, steps)))),
        section(
            f"Weights ({len(tensors)} tensors, {format_bytes(num_bytes)})",
            table(folded(map(_tensor_row, tensors))),
        ),
    ]
    return "\n\n".join(parts)


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return table((name, str(value)) for name, value in values.items())


def _checkpoint(manifest: Mapping[str, Any]) -> list[str]:
    checkpoint = manifest["checkpoint"]
    rows = [("name", checkpoint["name"]), ("config.json", checkpoint["config_sha256"])]
    rows += [(file["name"], file["sha256"]) for file in checkpoint["weights"]]
    calibration = manifest.get("quantization", {}).get("calibration")
    if calibration:
        rows.append(("calibration", _calibration(calibration)))
    return table(rows)


def _calibration(record: Mapping[str, Any]) -> str:
    """One line of `calibration.json`, whose entries anyone may have changed or left out."""
    parts = [str(record.get("qformat", "unknown format"))]
    if record.get("kv_cache_dtype", "auto") != "auto":
        parts.append(f"KV cache {record['kv_cache_dtype']}")
    dataset = record.get("dataset")
    if isinstance(dataset, Mapping):
        parts.append(f"{record.get('num_tokens')} tokens of {dataset.get('name')}")
        parts.append(f"sha256 {str(dataset.get('sha256'))[:16]}")
    versions = record.get("versions")
    if isinstance(versions, Mapping):
        parts.append(f"modelopt {versions.get('modelopt')}")
    return ", ".join(parts)


def _memory_plans(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, int]]:
    """Title to plan; one of each SKU where the engine is for several."""
    plans = manifest.get("memory_plans")
    if not plans:
        return {"Memory plan": manifest["memory_plan"]}
    return {f"Memory plan of {sku}": plan for sku, plan in plans.items()}


def _memory_plan(plan: Mapping[str, int]) -> list[str]:
    return table(
        (name, format_bytes(value) if name.endswith("_bytes") else str(value))
        for name, value in plan.items()
    )


def _section_row(section: Mapping[str, Any]) -> Row:
    return (
        section["name"],
        f"at {section['offset']}",
        format_bytes(section["bytes"]),
        f"sha256 {section['sha256'][:16]}",
        "checked at open" if section["flags"] & 1 else "checked by verify",
    )


def _tensor_row(tensor: Mapping[str, Any]) -> Row:
    shape = ", ".join(map(str, tensor["shape"]))
    return (
        tensor["name"],
        f"{tensor['dtype']}[{shape}]",
        tensor["layout"],
        format_bytes(tensor["bytes"]),
    )


def _step_row(step: Mapping[str, Any]) -> Row:
    outputs = ", ".join(step["outputs"])
    attributes = dict(step["attributes"])
    operands: list[str] = []
    for name in step["inputs"]:
        # What belongs to the operand before it (`.scale`, `.column_sums`) is shown as its suffix.
        owner = next((n for n in operands if name is not None and name.startswith(f"{n}.")), "")
        operands.append("-" if name is None else name.removeprefix(owner))
    accumulates = attributes.pop("accumulate", 0) == 1 or step["op"] == "add"
    operands += [f"{name}={value}" for name, value in attributes.items()]
    return (f"{outputs} {'+=' if accumulates else '='} {step['op']}({', '.join(operands)})",)


def _folded(rows: Iterable[Row]) -> list[Row]:
    """Shows each run of layers that differ in their number alone once."""
    blocks: list[tuple[int | None, list[Row]]] = []
    for row in rows:
        layer = _layer_of(row)
        # A step that names no layer (an activation, say) belongs to the one before it.
        if layer is None and blocks and blocks[-1][0] is not None and _is_inside(row):
            layer = blocks[-1][0]
        if blocks and blocks[-1][0] == layer:
            blocks[-1][1].append(row)
        else:
            blocks.append((layer, [row]))
    folded: list[Row] = []
    for pattern, run in itertools.groupby(blocks, key=lambda block: _pattern(block[1])):
        alike = list(run)
        first, last = alike[0][0], alike[-1][0]
        if first is None or first == last:
            folded += [row for _, block in alike for row in block]
        else:
            folded.append((f"for layer N in {first} .. {last}:",))
            folded += [(f"  {row[0]}", *row[1:]) for row in pattern]
    return folded


def _layer_of(row: Row) -> int | None:
    match = LAYER.search(row[0])
    return int(match[2]) if match else None


def _is_inside(row: Row) -> bool:
    """Whether a step without a layer's name stands within a layer."""
    return any(f"= {op}(" in row[0] for op in ("silu_mul", "group_sums", "all_reduce", "add"))


def _pattern(block: list[Row]) -> tuple[Row, ...]:
    """The rows with the layer's number N taken out; a segment that reaches into N+1 says so."""
    layer = _layer_of(block[0])

    def without_number(match: re.Match[str]) -> str:
        ahead = int(match[2]) - (layer or 0)
        return match[0].replace(match[2], "N" if ahead == 0 else f"N{ahead:+}")

    return tuple(
        (ALTERNATE.sub(r"\1", LAYER.sub(without_number, row[0])), *row[1:]) for row in block
    )
