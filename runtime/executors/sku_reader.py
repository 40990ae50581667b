# SPDX-License-Identifier: Apache-2.0
"""Reads the members of a section `sku.<name>`."""

from __future__ import annotations

from collections.abc import Mapping

from .archive import invalid
from .image import (
    KernelImage,
    LaunchImage,
    NativeImage,
    OpImage,
    PlanImage,
    ProfileImage,
    ScratchImage,
    SegmentImage,
    SkuImage,
    TensorRTImage,
    VariantImage,
)
from .record import Record
from .segments_reader import DTYPES, MAX_DIMENSION, ROWS, VERSION, member

PROVIDERS = ("native", "tensorrt_rtx", "tensorrt")
TYPES = (
    "*fp32", "*bf16", "*fp16", "*i8", "*u8", "*fp8e4nv", "*i32", "*i64", "i32", "fp32",
    "constexpr",
)  # fmt: skip
NUM_ROWS = "#rows"
"""The operand that stands for the number of rows."""


def read_sku(
    members: Mapping[str, bytes], path: str, name: str, segments: Mapping[str, SegmentImage]
) -> SkuImage:
    """Returns what the engine holds for a SKU.

    Args:
        members: of the archive.
        path: begins the paths in errors.
        name: of the SKU, as its section is called.
        segments: that the engine has.

    Raises:
        EngineFileError: a field is not what the format says, or names something that is not there.
    """
    root = Record.parse(member(members, "sku.json", path), path)
    root.integer("version", VERSION, VERSION)
    root.string("sku", (name,))
    providers = root.strings("providers")
    if not providers or not set(providers) <= set(PROVIDERS):
        raise root.fail("providers", f"at least one of {', '.join(PROVIDERS)}")
    major, minor = root.integers("compute_capability", 0, 99, 2)
    tensorrt = root.optional("tensorrt")
    kernels = {key: _kernel(key, record, members) for key, record in root.record("kernels").items()}
    entries = dict(root.record("segments").items())
    if entries.keys() != segments.keys():
        raise root.fail("segments", f"an entry for each of {', '.join(segments)}")
    natives = {key: record.optional("native") for key, record in entries.items()}
    plans = {key: record.optional("plan") for key, record in entries.items()}
    for provider in providers:
        having = natives if provider == "native" else plans
        lacking = [key for key, record in having.items() if record is None]
        if lacking:
            raise root.fail("providers", f"{provider!r} only when segment {lacking[0]!r} has it")
    return SkuImage(
        name=name,
        compute_capability=(major, minor),
        providers=providers,
        tensorrt=None if tensorrt is None else _tensorrt(tensorrt),
        triton_language=root.string("triton_language"),
        kernels=kernels,
        ops={key: _op(record, kernels) for key, record in root.record("ops").items()},
        native={
            key: _native(record, segments[key], kernels)
            for key, record in natives.items()
            if record is not None
        },
        plans={key: _plan(record, members) for key, record in plans.items() if record is not None},
    )


def _tensorrt(record: Record) -> TensorRTImage:
    return TensorRTImage(record.string("package", PROVIDERS[1:]), record.string("version"))


def _kernel(name: str, record: Record, members: Mapping[str, bytes]) -> KernelImage:
    signature = []
    for entry in record.array("signature"):
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or not isinstance(entry[0], str) or entry[1] not in TYPES:
            raise record.fail("signature", f"[parameter, type] with a type of {', '.join(TYPES)}")
        signature.append((entry[0], entry[1]))
    constants = record.record("constants").scalars()
    names = [parameter for parameter, _ in signature]
    constexpr = {parameter for parameter, kind in signature if kind == "constexpr"}
    if len(set(names)) != len(names) or constexpr != constants.keys():
        raise record.fail("constants", "a value for each constexpr parameter of the signature")
    return KernelImage(
        name=name,
        spec=record.name("spec"),
        version=record.integer("version", 1, 2**31 - 1),
        source_sha256=record.sha256("source_sha256"),
        cubin=member(members, record.string("cubin"), f"{record.path}.cubin"),
        entry=record.name("entry"),
        num_warps=record.integer("num_warps", 1, 32),
        num_stages=record.integer("num_stages", 1, 32),
        shared_bytes=record.integer("shared_bytes", 0, 2**20),
        num_params=record.integer("num_params", len(names) - len(constexpr), 1024),
        registers=record.integer("registers", 0, 1024),
        spill_bytes=record.integer("spill_bytes", 0, 2**31 - 1),
        signature=tuple(signature),
        constants=constants,
        programmatic_launch=record.has("programmatic_launch")
        and record.boolean("programmatic_launch"),
    )


def _op(record: Record, kernels: Mapping[str, KernelImage]) -> OpImage:
    chosen, numbers = {}, {}
    for role, value in record.scalars().items():
        if isinstance(value, str):
            if value not in kernels:
                raise record.fail(role, f"one of the kernels {', '.join(kernels)}")
            chosen[role] = value
        else:
            numbers[role] = record.integer(role, 1, MAX_DIMENSION)
    return OpImage(chosen, numbers)


def _native(
    record: Record, segment: SegmentImage, kernels: Mapping[str, KernelImage]
) -> NativeImage:
    scratch = tuple(
        ScratchImage(
            entry.name("name"),
            entry.string("dtype", DTYPES),
            entry.string("rows", ROWS),
            entry.integer("columns", 1, MAX_DIMENSION),
        )
        for entry in record.records("scratch")
    )
    operands = {operand.name for operand in (*segment.inputs, *segment.outputs)}
    for entry in scratch:
        if entry.name in operands:
            raise record.fail("scratch", f"names that are not taken; {entry.name!r} is")
        operands.add(entry.name)
    launches = tuple(
        _launch(entry, operands | {NUM_ROWS}, kernels) for entry in record.records("launches")
    )
    return NativeImage(scratch, launches)


def _launch(record: Record, operands: set[str], kernels: Mapping[str, KernelImage]) -> LaunchImage:
    args = record.record("args").texts()
    for parameter, operand in args.items():
        if operand not in operands:
            raise invalid(
                f"{record.path}.args.{parameter}",
                f"{operand!r}; accepted: {', '.join(sorted(operands))}",
            )
    variants = tuple(
        VariantImage(
            entry.integer("max_rows", 1, MAX_DIMENSION) if entry.has("max_rows") else None,
            entry.string("kernel", tuple(kernels)),
            entry.integer("block_rows", 1, MAX_DIMENSION),
            entry.integer("blocks", 1, MAX_DIMENSION),
        )
        for entry in record.records("variants")
    )
    bounds = [variant.max_rows for variant in variants]
    finite = [bound for bound in bounds[:-1] if bound is not None]
    is_sorted = sorted(set(finite)) == bounds[:-1]
    if not bounds or bounds[-1] is not None or not is_sorted:
        raise record.fail("variants", "max_rows increasing, the last one null")
    return LaunchImage(args, variants)


def _plan(record: Record, members: Mapping[str, bytes]) -> PlanImage:
    file = record.string("file")
    data = member(members, file, f"{record.path}.file")
    record.integer("bytes", len(data), len(data))
    profiles = []
    for entry in record.records("profiles"):
        low = entry.integer("min", 1, MAX_DIMENSION)
        best = entry.integer("opt", low, MAX_DIMENSION)
        profiles.append(ProfileImage(low, best, entry.integer("max", best, MAX_DIMENSION)))
    if not profiles:
        raise record.fail("profiles", "at least one")
    return PlanImage(file, data, tuple(profiles), record.strings("gemm_operands"))
