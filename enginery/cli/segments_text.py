# SPDX-License-Identifier: Apache-2.0
"""The compiled parts of a tensorrt engine for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from enginery.builder.memory_plan import format_bytes
from enginery.cli.text_table import Row, section, table
from enginery.runtime.engine import Engine
from enginery.runtime.executors.archive import read_archive
from enginery.runtime.executors.image import (
    KernelImage,
    OperandImage,
    PlanImage,
    RankImage,
    SegmentImage,
    SkuImage,
)
from enginery.runtime.executors.image_reader import SKU_PREFIX, read_image, sku_names

SEGMENTS = "segments"
TILE_CONSTANTS = ("BLOCK_M", "BLOCK_N", "BLOCK_K")


def segments_text(engine: Engine, rank: int) -> str:
    """Returns segments, plans and kernels of a rank, for every SKU of the engine.

    Raises:
        EngineFileError: a section is not what the format says.
    """
    images = {name: read_image(engine, name)[rank] for name in sku_names(engine)}
    first = next(iter(images.values()))
    parts = [section("Segments", _segment_lines(first))]
    for name, image in images.items():
        sku = image.sku
        parts.append(section(f"SKU {name}", _sku_lines(image)))
        if sku.plans:
            parts.append(section(f"Plans of {name}", table(map(_plan_row, sku.plans.items()))))
        title = f"Kernels of {name} ({len(sku.kernels)})"
        parts.append(section(title, table([KERNEL_HEAD, *_kernel_rows(sku)])))
    return "\n\n".join(parts)


def segments_json(engine: Engine, rank: int) -> dict[str, Any]:
    """Returns `segments.json` and each `sku.json` of a rank, with the sizes of their files.

    Raises:
        EngineFileError: a section is not what the format says.
    """
    names = sku_names(engine)
    for name in names:
        read_image(engine, name)
    document = {SEGMENTS: _with_sizes(engine, rank, SEGMENTS)}
    skus = {name: _with_sizes(engine, rank, SKU_PREFIX + name) for name in names}
    return document | {"skus": skus}


def _with_sizes(engine: Engine, rank: int, name: str) -> dict[str, Any]:
    members = read_archive(engine.section(name, rank), f"section {name}")
    (document,) = (file for file in members if file.endswith(".json"))
    sizes = {file: len(content) for file, content in members.items()}
    return {**json.loads(members[document]), "file_bytes": sizes}


def _segment_lines(image: RankImage) -> Iterator[str]:
    runs = [step.attributes["segment"] for step in image.steps if step.op == "run_segment"]
    for name, segment in image.segments.items():
        values = [operand for operand in segment.inputs if operand.is_value]
        tensors = [operand for operand in segment.inputs if not operand.is_value]
        yield (
            f"{name} (run {_times(runs.count(name))}, ONNX {format_bytes(len(segment.onnx))}): "
            f"{_operands(values)} -> {_operands(segment.outputs)}"
        )
        yield from (f"  {line}" for line in table(map(_tensor_row, tensors)))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _operands(operands: Iterable[OperandImage]) -> str:
    return ", ".join(f"{o.name} {o.dtype}[{o.rows}, {o.shape[0]}]" for o in operands)


def _tensor_row(operand: OperandImage) -> Row:
    return operand.name, f"{operand.dtype}[{', '.join(map(str, operand.shape))}]"


def _sku_lines(image: RankImage) -> list[str]:
    sku = image.sku
    major, minor = sku.compute_capability
    tensorrt = "none" if sku.tensorrt is None else f"{sku.tensorrt.package} {sku.tensorrt.version}"
    rows = [
        ("compute capability", f"{major}.{minor}"),
        ("providers", ", ".join(sku.providers)),
        ("TensorRT", tensorrt),
        ("Triton language", sku.triton_language),
    ]
    rows += [(f"segment {name}", _segment_state(sku, segment))
             for name, segment in image.segments.items()]  # fmt: skip
    return table(rows)


def _segment_state(sku: SkuImage, segment: SegmentImage) -> str:
    """Which provider runs a segment, and what else is there for it."""
    states = {}
    if segment.name in sku.native:
        launches = sku.native[segment.name].launches
        states["native"] = f"native, {len(launches)} launches"
    if segment.name in sku.plans:
        plan = sku.plans[segment.name]
        package = "TensorRT" if sku.tensorrt is None else sku.tensorrt.package
        states[package] = f"{package}, plan of {format_bytes(len(plan.data))}"
    chosen = [states.pop(provider) for provider in sku.providers if provider in states]
    return "; else ".join([*chosen, *states.values()])


def _plan_row(entry: tuple[str, PlanImage]) -> Row:
    name, plan = entry
    profiles = ", ".join(f"{p.min}..{p.max} rows (best {p.opt})" for p in plan.profiles)
    return name, format_bytes(len(plan.data)), profiles, "; ".join(plan.gemm_operands)


KERNEL_HEAD: Row = (
    "kernel", "tile", "warps", "stages", "registers", "spills", "shared", "cubin", "used by",
)  # fmt: skip


def _kernel_rows(sku: SkuImage) -> Iterator[Row]:
    users = _users(sku)
    for name, kernel in sorted(sku.kernels.items()):
        yield (
            name,
            _tile(kernel),
            str(kernel.num_warps),
            str(kernel.num_stages),
            str(kernel.registers),
            format_bytes(kernel.spill_bytes) if kernel.spill_bytes else "none",
            format_bytes(kernel.shared_bytes),
            format_bytes(len(kernel.cubin)),
            ", ".join(users.get(name, ())) or "nothing",
        )


def _tile(kernel: KernelImage) -> str:
    sizes = [kernel.constants[name] for name in TILE_CONSTANTS if name in kernel.constants]
    return "x".join(map(str, sizes or [kernel.constants.get("BLOCK", "-")]))


def _users(sku: SkuImage) -> Mapping[str, list[str]]:
    """Which operations and segments launch a kernel, and for up to how many rows."""
    users: dict[str, list[str]] = {}
    for op, image in sku.ops.items():
        for role, kernel in image.kernels.items():
            users.setdefault(kernel, []).append(op if role == "kernel" else f"{op} {role}")
    for segment, native in sku.native.items():
        for launch in native.launches:
            for variant in launch.variants:
                limit = "" if variant.max_rows is None else f" to {variant.max_rows} rows"
                use = segment + limit
                held = users.setdefault(variant.kernel, [])
                if use not in held:
                    held.append(use)
    return users
