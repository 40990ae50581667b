# SPDX-License-Identifier: Apache-2.0
"""The sections `segments` and `sku.<name>` of a tensorrt engine (docs/engine-format.md).

`Artifacts` makes what they hold: the segments' ONNX, and for each SKU the kernels and plans.
Nothing here depends on the weights or on the number of layers, so a configuration suffices. What
two SKUs of one compute capability or two ranks have in common is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from enginery.builder.cache import Cache
from enginery.builder.engine.container import Section, bytes_section
from enginery.builder.engine.program import Program
from enginery.builder.options import ENGINE_DTYPES, BuildOptions
from enginery.builder.packages import package_version
from enginery.builder.progress import KERNELS, PLANS, Progress, no_progress
from enginery.builder.sku import Gpu, Sku
from enginery.builder.targets.tensorrt.archive import json_member, write_archive
from enginery.builder.targets.tensorrt.kernels import (
    CompiledKernel,
    Kernel,
    KernelSet,
    cached_kernels,
    check_shared_memory,
    compile_kernels,
)
from enginery.builder.targets.tensorrt.native import NativeSegment, lower_segment
from enginery.builder.targets.tensorrt.onnx_segment import emit_segment, segment_record
from enginery.builder.targets.tensorrt.ops import op_kernels
from enginery.builder.targets.tensorrt.plans import Plan, PlanJob, find_tensorrt
from enginery.builder.targets.tensorrt.providers import (
    NATIVE,
    PlanName,
    cached_plans,
    make_plans,
    plan_name,
    providers_of,
)
from enginery.builder.targets.tensorrt.segment import SegmentType

Capability = tuple[int, int]
SECTION_VERSION = 1
SECTION_PREFIX = "sku."


@dataclass(frozen=True)
class RankParts:
    """What one rank needs on one compute capability: names of kernels, launches of segments."""

    kernels: KernelSet
    ops: dict[str, dict[str, str | int]]
    native: dict[str, NativeSegment]


class Count:
    """Counts what a stage has done and tells of it."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self.progress = progress
        self.stage = stage
        self.total = total
        self.done = 0

    def add(self, number: int = 1) -> None:
        """Notes that so many more are done."""
        self.done += number
        self.progress(self.stage, self.done, self.total)


class Artifacts:
    """Kernels, plans and ONNX of an engine for all its ranks and SKUs.

    Args:
        ranks: program and segment types of each rank.
        skus: of target tensorrt.
        options: of the build.
        cache: consulted before anything is made, and given what was made.

    Attributes:
        num_cached: kernels and plans that the cache held when `make` began.
    """

    def __init__(
        self,
        ranks: Sequence[tuple[Program, Sequence[SegmentType]]],
        skus: Sequence[Sku],
        options: BuildOptions,
        cache: Cache,
    ) -> None:
        self.ranks = ranks
        self.skus = {sku.name: sku for sku in skus}
        self.options = options
        self.cache = cache
        self.providers = {sku.name: providers_of(sku) for sku in skus}
        self.parts = {
            (capability, rank): self._parts(capability, rank)
            for capability in {gpu_of(sku).compute_capability for sku in skus}
            for rank in range(len(ranks))
        }
        self.onnx: dict[SegmentType, bytes] = {}
        self.compiled: dict[Capability, dict[str, CompiledKernel]] = {}
        self.plans: dict[PlanName, Plan] = {}
        self.num_cached = 0

    def make(self, progress: Progress = no_progress) -> None:
        """Emits the ONNX and compiles what the cache does not hold, kernels first.

        Raises:
            BuildError: a package that this takes is not installed, a kernel takes more shared
                memory than there is, or TensorRT refuses a segment.
            KernelCompileError: a kernel does not compile.
            OSError: the cache cannot be written.
        """
        self.cache.prepare()
        dtype = ENGINE_DTYPES[self.options.dtype]
        self.onnx = {
            segment: emit_segment(segment, dtype)
            for _, segments in self.ranks
            for segment in segments
        }
        kernels = {capability: self._kernels(capability) for capability in self.capabilities}
        for capability, wanted in kernels.items():
            self.compiled[capability] = cached_kernels(wanted, capability, self.cache)
        plans = self._plan_jobs()
        self.plans = cached_plans(plans, self.cache)
        kernel_count = Count(progress, KERNELS, sum(map(len, kernels.values())))
        kernel_count.add(sum(map(len, self.compiled.values())))
        plan_count = Count(progress, PLANS, len(plans))
        plan_count.add(len(self.plans))
        self.num_cached = kernel_count.done + plan_count.done

        for capability, wanted in kernels.items():
            held = self.compiled[capability]
            lacking = [kernel for kernel in wanted if kernel.name not in held]
            if lacking:
                held.update(compile_kernels(lacking, capability, self.cache, kernel_count.add))
            check_shared_memory(held, capability)
        lacking_plans = [job for job in plans if plan_name(job) not in self.plans]
        if lacking_plans:
            self.plans.update(make_plans(lacking_plans, self.cache, plan_count.add))

    @property
    def capabilities(self) -> list[Capability]:
        """The compute capabilities of the SKUs, each once, in order."""
        return sorted({gpu_of(sku).compute_capability for sku in self.skus.values()})

    def sections(self, rank: int) -> list[Section]:
        """The sections of a rank's file, after `make`."""
        _, segments = self.ranks[rank]
        archives = {"segments": self._segments_archive(segments)}
        for name, sku in self.skus.items():
            archives[SECTION_PREFIX + name] = self._sku_archive(sku, rank)
        return [bytes_section(name, content) for name, content in archives.items()]

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` says of kernels, plans and what made them, after `make`."""
        compiled = [kernel for held in self.compiled.values() for kernel in held.values()]
        sources = {kernel.record["spec"]: kernel.record["source_sha256"] for kernel in compiled}
        built_with = {"triton_language": package_version("triton")}
        if self.plans:
            tensorrt = find_tensorrt()
            assert tensorrt is not None
            built_with[tensorrt.package] = tensorrt.version
        return {
            "skus": {
                name: {
                    "compute_capability": list(gpu_of(sku).compute_capability),
                    "providers": list(self.providers[name]),
                    "verified": gpu_of(sku).verified or None,
                }
                for name, sku in self.skus.items()
            },
            "built_with": built_with,
            "kernel_sources": {spec: sources[spec] for spec in sorted(sources)},
        }

    def _parts(self, capability: Capability, rank: int) -> RankParts:
        program, segments = self.ranks[rank]
        kernels = KernelSet()
        is_native = any(
            NATIVE in self.providers[name]
            for name, sku in self.skus.items()
            if gpu_of(sku).compute_capability == capability
        )
        native = {}
        if is_native:
            most = {"tokens": self.options.max_num_tokens, "logits": self.options.max_batch_size}
            native = {
                segment.name: lower_segment(segment, kernels, capability, most[segment.rows])
                for segment in segments
            }
        return RankParts(kernels, op_kernels(program, kernels, capability), native)

    def _plan_jobs(self) -> list[PlanJob]:
        """The plans of all ranks and SKUs, each once."""
        segments = {segment: None for _, segments in self.ranks for segment in segments}
        capabilities = {
            gpu_of(sku).compute_capability: None
            for name, sku in self.skus.items()
            if any(provider != NATIVE for provider in self.providers[name])
        }
        return [
            PlanJob(
                segment=segment,
                content=self.onnx[segment],
                capability=capability,
                max_batch_size=self.options.max_batch_size,
                max_num_tokens=self.options.max_num_tokens,
            )
            for capability in sorted(capabilities)
            for segment in segments
        ]

    def _kernels(self, capability: Capability) -> list[Kernel]:
        """The kernels of all ranks on a compute capability, each once."""
        merged: dict[str, Kernel] = {}
        for rank in range(len(self.ranks)):
            merged |= self.parts[capability, rank].kernels.kernels
        return list(merged.values())

    def _segments_archive(self, segments: Iterable[SegmentType]) -> bytes:
        members: dict[str, bytes] = {}
        records = {}
        for segment in segments:
            onnx = self.onnx[segment]
            members[f"{segment.name}.onnx"] = onnx
            records[segment.name] = {
                "onnx": f"{segment.name}.onnx",
                "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
                **segment_record(segment),
            }
        document = {"version": SECTION_VERSION, "segments": records}
        return write_archive(members | {"segments.json": json_member(document)})

    def _sku_archive(self, sku: Sku, rank: int) -> bytes:
        capability = gpu_of(sku).compute_capability
        providers = self.providers[sku.name]
        parts = self.parts[capability, rank]
        native = parts.native if NATIVE in providers else {}
        compiled = {
            name: self.compiled[capability][name]
            for name in used_kernels(parts.ops, native.values())
        }
        members = {f"kernels/{name}.cubin": kernel.cubin for name, kernel in compiled.items()}
        records: dict[str, dict[str, Any]] = {}
        for segment in self.ranks[rank][1]:
            plan, file = self.plans.get((capability, segment)), f"plans/{segment.name}.plan"
            has_plan = plan is not None and providers != (NATIVE,)
            records[segment.name] = {
                "native": native[segment.name].to_json() if native else None,
                "plan": plan.record(file) if plan is not None and has_plan else None,
            }
            if plan is not None and has_plan:
                members[file] = plan.data
        tensorrt = find_tensorrt() if providers != (NATIVE,) else None
        document = {
            "version": SECTION_VERSION,
            "sku": sku.name,
            "compute_capability": list(capability),
            "providers": list(providers),
            "tensorrt": None if tensorrt is None else tensorrt.record(),
            "triton_language": package_version("triton"),
            "kernels": {name: kernel.record for name, kernel in compiled.items()},
            "ops": parts.ops,
            "segments": records,
        }
        return write_archive(members | {"sku.json": json_member(document)})


def used_kernels(
    ops: dict[str, dict[str, str | int]], native: Iterable[NativeSegment]
) -> list[str]:
    """Names of the kernels of operations and native segments, each once, sorted."""
    names = {value for roles in ops.values() for value in roles.values() if isinstance(value, str)}
    for segment in native:
        names |= {v.kernel for launch in segment.launches for v in launch.variants}
    return sorted(names)


def gpu_of(sku: Sku) -> Gpu:
    """The GPU of a SKU of target tensorrt."""
    assert sku.gpu is not None, f"{sku.name} is not of target tensorrt"
    return sku.gpu
