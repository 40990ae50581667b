# SPDX-License-Identifier: Apache-2.0
"""Reads a segmented engine into `image`'s classes and checks what it reads.

The C++ reader has checked the file and its program as such. Here are the two kinds of section
that it does not look into, and what the program means to a segmented executor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engine import Engine
from ..errors import EngineFileError, EngineMismatchError
from .archive import invalid, read_archive
from .image import (
    OperandImage,
    RankImage,
    SegmentImage,
    StepImage,
    TensorImage,
    ValueImage,
)
from .segments_reader import read_segments
from .sku_reader import read_sku

TARGET, VARIANT = "tensorrt", "segments"
SKU_PREFIX = "sku."
KV_DTYPES = {"bfloat16": "bf16", "float16": "f16", "fp8": "f8e4m3", "int8": "i8"}


def sku_names(engine: Engine) -> list[str]:
    """The SKUs that an engine has kernels for, sorted."""
    sections = engine.describe()["sections"]
    return sorted(
        section["name"].removeprefix(SKU_PREFIX)
        for section in sections
        if section["name"].startswith(SKU_PREFIX)
    )


def choose_sku(engine: Engine, sku: str | None) -> str:
    """The SKU to run: `sku`, or the engine's only one.

    Raises:
        EngineMismatchError: the engine is for another target, or not for `sku`, or for several
            SKUs of which none was named.
        EngineFileError: it has no SKU section at all.
    """
    info = engine.info
    if (info.target, info.variant) != (TARGET, VARIANT):
        raise EngineMismatchError(
            f"engine {engine.path!r} is for target {info.target!r}, variant {info.variant!r}; this "
            f"executor runs {TARGET!r}, {VARIANT!r}",
            "WRONG_TARGET",
        )
    names = sku_names(engine)
    if not names:
        raise EngineFileError(
            f"engine {engine.path!r} has no section {SKU_PREFIX}<name>", "MISSING_SECTION"
        )
    if sku is None and len(names) == 1:
        return names[0]
    if sku not in names:
        given = "no SKU was named" if sku is None else f"not for {sku!r}"
        raise EngineMismatchError(
            f"engine {engine.path!r} is for {', '.join(names)}; {given}: name one of these, or "
            "build with --sku",
            "WRONG_TARGET",
        )
    return sku


def read_image(engine: Engine, sku: str | None = None) -> tuple[RankImage, ...]:
    """Reads every rank of an engine for one SKU; nothing of the engine is referred to afterwards.

    Args:
        engine: an opened engine of the tensorrt target.
        sku: its name; None: the engine's only one.

    Raises:
        EngineMismatchError: as `choose_sku` says.
        EngineFileError: a field of a section is not what the format says; named by its path.
    """
    name = choose_sku(engine, sku)
    return tuple(_read_rank(engine, rank, name) for rank in range(engine.info.tp_size))


def _read_rank(engine: Engine, rank: int, sku: str) -> RankImage:
    program = engine.describe(rank)
    attributes = program["attributes"]
    kv_cache_dtype = attributes["kv_cache_dtype"]
    if kv_cache_dtype not in KV_DTYPES:
        raise _unsupported(
            f"program: attribute 'kv_cache_dtype': {kv_cache_dtype!r}; accepted: "
            + ", ".join(KV_DTYPES)
        )
    tensors = {entry["name"]: _tensor(entry) for entry in program["tensors"]}
    values = {
        entry["name"]: ValueImage(entry["name"], entry["dtype"], entry["rows"], entry["columns"])
        for entry in program["values"]
    }
    steps = tuple(
        _step(index, entry, tensors, values) for index, entry in enumerate(program["steps"])
    )
    where = "" if engine.info.tp_size == 1 else f"rank {rank}: "
    segments = read_segments(
        read_archive(engine.section("segments", rank), f"{where}section segments"),
        f"{where}segments.json",
    )
    section = SKU_PREFIX + sku
    kernels = read_sku(
        read_archive(engine.section(section, rank), f"{where}section {section}"),
        f"{where}{section}: sku.json",
        sku,
        segments,
    )
    _check_logits(values, attributes["vocab_size"])
    for step in steps:
        if step.op == "run_segment":
            check_segment_step(step, segments)
    return RankImage(
        rank=rank,
        **{name: attributes[name] for name in _ATTRIBUTES},
        kv_dtype=KV_DTYPES[kv_cache_dtype],
        tensors=tensors,
        values=values,
        steps=steps,
        segments=segments,
        sku=kernels,
    )


_ATTRIBUTES = (
    "num_heads", "num_kv_heads", "head_dim", "num_layers", "vocab_size", "tokens_per_block",
)  # fmt: skip


def _tensor(entry: Mapping[str, Any]) -> TensorImage:
    if entry["layout"] != "rows":
        raise _unsupported(
            f"tensor {entry['name']!r}: layout {entry['layout']!r}; accepted on {TARGET}: 'rows'"
        )
    return TensorImage(
        entry["name"],
        entry["dtype"],
        tuple(entry["shape"]),
        entry["section"],
        entry["offset"],
        entry["bytes"],
    )


def _step(
    index: int,
    entry: Mapping[str, Any],
    tensors: Mapping[str, TensorImage],
    values: Mapping[str, ValueImage],
) -> StepImage:
    def operand(name: str | None) -> TensorImage | ValueImage | None:
        return None if name is None else values.get(name) or tensors[name]

    return StepImage(
        index,
        entry["op"],
        entry["version"],
        tuple(operand(name) for name in entry["inputs"]),
        tuple(values[name] for name in entry["outputs"]),
        entry["attributes"],
    )


def _check_logits(values: Mapping[str, ValueImage], vocab_size: int) -> None:
    logits = values.get("logits")
    if logits != ValueImage("logits", "f32", "logits", vocab_size):
        raise EngineFileError(
            f"program: value 'logits' is {logits}; accepted: f32 of logits by {vocab_size}",
            "INVALID_PROGRAM",
        )


def check_segment_step(step: StepImage, segments: Mapping[str, SegmentImage]) -> None:
    """Checks that a step's operands are those of its segment.

    Raises:
        EngineFileError: the segment is unknown, or an operand differs in number, kind or size.
    """
    name = step.attributes.get("segment")
    if not isinstance(name, str) or name not in segments:
        raise invalid(
            f"{step.place}: attribute 'segment'", f"{name!r}; accepted: {', '.join(segments)}"
        )
    segment = segments[name]
    for given, wanted, kind in (
        (step.inputs, segment.inputs, "inputs"),
        (step.outputs, segment.outputs, "outputs"),
    ):
        if len(given) != len(wanted):
            raise invalid(step.place, f"{len(given)} {kind}; segment {name!r} has {len(wanted)}")
        for operand, image in zip(given, wanted, strict=True):
            if not _fits(operand, image):
                raise invalid(step.place, f"{operand} is not {image} of segment {name!r}")
    if any(output in step.inputs for output in step.outputs):
        raise invalid(step.place, "an output is an input as well")


def _fits(operand: TensorImage | ValueImage | None, image: OperandImage) -> bool:
    if isinstance(operand, ValueImage):
        return image.is_value and (operand.dtype, operand.rows, (operand.columns,)) == (
            image.dtype,
            image.rows,
            image.shape,
        )
    # ONNX may want [1, N] of what is stored as [N]: the same bytes.
    return (
        isinstance(operand, TensorImage)
        and not image.is_value
        and operand.dtype == image.dtype
        and _without_ones(operand.shape) == _without_ones(image.shape)
    )


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _unsupported(message: str) -> EngineMismatchError:
    return EngineMismatchError(message, "UNSUPPORTED_OP")


__all__ = ["check_segment_step", "choose_sku", "read_image", "sku_names"]
