# SPDX-License-Identifier: Apache-2.0
"""TensorRT plans of segments: which TensorRT there is, what it builds for, and the builds.

TensorRT ends the process on some inputs, so it is only ever imported by a worker process
(`plan_worker`), and whoever calls learns by which segment it died. A plan depends on a segment's
structure, the limits and the compute capability, and on no weight.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Any

from enginery.builder.errors import BuildError, Problem
from enginery.builder.targets.tensorrt.gemm_operands import read_gemms
from enginery.builder.targets.tensorrt.onnx_segment import gemm_node_name, layer_name
from enginery.builder.targets.tensorrt.plan_process import PlanProcess
from enginery.builder.targets.tensorrt.segment import SegmentNode, SegmentType
from enginery.builder.targets.tensorrt.workspace import EXTRA_LOGIT_ROWS

Capability = tuple[int, int]

# Raise it when the same job is built differently.
PLAN_VERSION = 2
RTX, FULL = "tensorrt_rtx", "tensorrt"
# Package -> the distributions that install it, the version of the first found counts.
DISTRIBUTIONS = {RTX: ("tensorrt-rtx", "tensorrt-rtx-cu13"), FULL: ("tensorrt",)}
# What TensorRT-RTX compiles for ahead of time, of the GPUs that have a SKU.
RTX_CAPABILITIES: tuple[Capability, ...] = ((8, 0), (8, 6), (8, 9), (12, 0))
# Operand type of a GEMM in a plan's text, by dtype of the engine format.
OPERAND_TYPES = {"bf16": "bf16", "f16": "half", "f8e4m3": "fp8_e4m3", "i8": "int8"}
LENGTH = struct.Struct("<Q")


class PlanError(BuildError):
    """TensorRT does not build a segment, or builds another one than was asked for."""


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT.

    Attributes:
        package: "tensorrt_rtx" or "tensorrt", also the provider's name.
        version: of the package.
        capabilities: compute capabilities that it builds for here: fixed ones for TensorRT-RTX,
            that of the GPU in this machine for TensorRT.
    """

    package: str
    version: str
    capabilities: tuple[Capability, ...]

    def builds_for(self, capability: Capability) -> bool:
        """Whether plans for this compute capability can be built here."""
        return capability in self.capabilities

    def record(self) -> dict[str, str]:
        """The entry "tensorrt" of `sku.json`."""
        return {"package": self.package, "version": self.version}


@functools.cache
def find_tensorrt() -> TensorRT | None:
    """The TensorRT that plans are built with, or None where there is none.

    TensorRT wins over TensorRT-RTX where it is installed and works, which takes a GPU; whether it
    does is found out in a process of its own, and only if it is installed.
    """
    if version := _installed_version(FULL):
        capability = PlanProcess.probe(FULL)
        if capability is not None:
            return TensorRT(FULL, version, (capability,))
    if version := _installed_version(RTX):
        return TensorRT(RTX, version, RTX_CAPABILITIES)
    return None


def _installed_version(package: str) -> str | None:
    if util.find_spec(package) is None:
        return None
    for distribution in DISTRIBUTIONS[package]:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


@dataclass(frozen=True)
class Profile:
    """Numbers of rows that a plan is optimised for; it runs any from `min` to `max`."""

    min: int
    opt: int
    max: int


def plan_profiles(rows: str, max_batch_size: int, max_num_tokens: int) -> tuple[Profile, ...]:
    """The profiles of a segment, in the order in which a plan has them.

    Decode steps have a row per sequence and are tuned for a batch that is half full; steps with
    prefill chunks have up to `max_num_tokens`, which chunking fills. A few more rows than there
    are sequences want logits where a request asks for those of its prompt.

    Args:
        rows: "tokens" or "logits": what the rows of its values are.
        max_batch_size: sequences of a step.
        max_num_tokens: rows of a step, at least `max_batch_size`.
    """
    decode = Profile(1, max(1, max_batch_size // 2), max_batch_size)
    if rows == "logits":
        most = min(max_batch_size + EXTRA_LOGIT_ROWS, max_num_tokens)
        return (dataclasses.replace(decode, max=max(most, max_batch_size)),)
    if max_num_tokens <= max_batch_size:
        return (decode,)
    return (decode, Profile(max_batch_size, max_num_tokens, max_num_tokens))


@dataclass(frozen=True)
class PlanJob:
    """A plan to build.

    Attributes:
        segment: its structure.
        content: its ONNX, from `emit_segment`.
        capability: compute capability of the GPU.
        max_batch_size, max_num_tokens: limits of a step.
    """

    segment: SegmentType
    content: bytes
    capability: Capability
    max_batch_size: int
    max_num_tokens: int

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """See `plan_profiles`."""
        return plan_profiles(self.segment.rows, self.max_batch_size, self.max_num_tokens)

    def key_parts(self, tensorrt: TensorRT) -> dict[str, Any]:
        """Everything that the plan depends on, as JSON values, for a cache's key."""
        return {
            "plan_version": PLAN_VERSION,
            "tensorrt": tensorrt.record(),
            "onnx_sha256": hashlib.sha256(self.content).hexdigest(),
            "capability": list(self.capability),
            "profiles": [asdict(profile) for profile in self.profiles],
        }


@dataclass(frozen=True)
class Plan:
    """A built plan.

    Attributes:
        data: what TensorRT loads.
        profiles: in the plan's order.
        gemm_operands: one entry per linear layer in order, e.g. "fp8_e4m3 x fp8_e4m3 -> bf16";
            empty for a package whose plans' text is not known.
        seconds: wall time of the build.
    """

    data: bytes
    profiles: tuple[Profile, ...]
    gemm_operands: tuple[str, ...]
    seconds: float

    def record(self, file: str) -> dict[str, Any]:
        """The plan's entry in `sku.json`; `file` is its name in the archive."""
        return {"file": file, "bytes": len(self.data), **self._facts()}

    def to_bytes(self) -> bytes:
        """All of it, for a cache: length of the JSON, JSON, data."""
        head = json.dumps(self._facts()).encode()
        return LENGTH.pack(len(head)) + head + self.data

    @classmethod
    def from_bytes(cls, content: bytes) -> Plan:
        """What `to_bytes` wrote."""
        (length,) = LENGTH.unpack_from(content)
        facts = json.loads(content[LENGTH.size : LENGTH.size + length])
        return cls(
            content[LENGTH.size + length :],
            tuple(Profile(**profile) for profile in facts["profiles"]),
            tuple(facts["gemm_operands"]),
            facts["seconds"],
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "profiles": [asdict(profile) for profile in self.profiles],
            "gemm_operands": list(self.gemm_operands),
            "seconds": self.seconds,
        }


def build_plans(
    jobs: Sequence[PlanJob],
    tensorrt: TensorRT,
    on_done: Callable[[PlanJob, Plan], None] | None = None,
) -> list[Plan]:
    """Builds plans one after the other in a worker process; needs no GPU with TensorRT-RTX.

    The GEMMs of each plan have been checked to have the operands asked for.

    Args:
        jobs: what to build, for capabilities that `tensorrt` builds for.
        tensorrt: what to build with, from `find_tensorrt`.
        on_done: called after each.

    Raises:
        PlanError: TensorRT refuses a segment or its process dies of it, or the plan has other
            GEMM operands than the segment's scheme says; names the segment.
    """
    plans: list[Plan] = []
    for job in jobs:
        if not tensorrt.builds_for(job.capability):
            raise _error(job.segment, "compute_capability", _capability_message(tensorrt, job))
    with PlanProcess(tensorrt.package) as process:
        for job in jobs:
            built = process.build(
                job.content, job.capability, [(p.min, p.opt, p.max) for p in job.profiles]
            )
            if isinstance(built, str):
                raise _error(job.segment, tensorrt.package, built)
            plan = Plan(built.data, job.profiles, (), built.seconds)
            if tensorrt.package == RTX:
                operands = check_operands(job.segment, plan)
                plan = Plan(plan.data, plan.profiles, operands, plan.seconds)
            plans.append(plan)
            if on_done:
                on_done(job, plan)
    return plans


def check_operands(segment: SegmentType, plan: Plan) -> tuple[str, ...]:
    """Checks in a plan of TensorRT-RTX that each GEMM has the operands its scheme asks for.

    Static schemes ask for FP8 x FP8 or INT8 x INT8. Weight-only ones ask for the 16-bit dtype
    twice: their weights are dequantised on the way into the GEMM.

    Returns:
        `Plan.gemm_operands`.

    Raises:
        PlanError: a linear layer's GEMM is not in the plan for one of its profiles, or has other
            operands.
    """
    gemms = read_gemms(plan.data)
    problems: list[Problem] = []
    described: list[str] = []
    for node in segment.nodes:
        if node.op != "linear":
            continue
        wanted = _wanted_operand(segment, node)
        for index in range(len(plan.profiles)):
            name = gemm_node_name(node) + (f" [profile {index}]" if index else "")
            found = gemms.get(name, ())
            text = ", ".join(map(str, found)) or "not in the plan"
            if not found or any(gemm.operands != (wanted, wanted) for gemm in found):
                problems.append(
                    Problem(
                        layer_name(node),
                        f"the GEMM of profile {index} was to be {wanted} x {wanted} for scheme "
                        f"{node.scheme}, but is {text}",
                        "build with `native` segments, or with the TensorRT version pinned by "
                        "the extra",
                    )
                )
            elif index == 0:
                described.append(str(found[0]))
    if problems:
        raise PlanError(f"segment {segment.name!r}", problems)
    return tuple(described)


def _wanted_operand(segment: SegmentType, node: SegmentNode) -> str:
    weight, scale = node.inputs[1], node.inputs[2]
    assert weight is not None
    is_weight_only = node.scheme in ("int8_wo", "int4_wo")
    operand = segment.operand(scale if is_weight_only and scale else weight)
    return OPERAND_TYPES[operand.dtype]


def _capability_message(tensorrt: TensorRT, job: PlanJob) -> str:
    names = ", ".join(f"{major}.{minor}" for major, minor in tensorrt.capabilities)
    major, minor = job.capability
    return f"{tensorrt.package} does not build for {major}.{minor}; here it builds for {names}"


def _error(segment: SegmentType, field: str, message: str) -> PlanError:
    return PlanError(f"segment {segment.name!r}", [Problem(field, message)])
