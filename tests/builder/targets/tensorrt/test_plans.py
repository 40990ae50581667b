# SPDX-License-Identifier: Apache-2.0
"""Plans by TensorRT-RTX, which needs no GPU to build them: profiles, operands, refusals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from enginery.builder.errors import BuildError
from enginery.builder.targets.tensorrt.gemm_operands import read_gemms
from enginery.builder.targets.tensorrt.onnx_segment import emit_segment
from enginery.builder.targets.tensorrt.plan_process import PlanProcess
from enginery.builder.targets.tensorrt.plans import (
    Plan,
    PlanError,
    PlanJob,
    Profile,
    TensorRT,
    build_plans,
    check_operands,
    find_tensorrt,
    plan_profiles,
)
from enginery.builder.targets.tensorrt.segment import SegmentType
from tests.support.segments import tiny_segments

ADA, AMPERE, BLACKWELL = (8, 9), (8, 0), (12, 0)
OPERANDS = {
    ("none", "bf16"): "bf16 x bf16",
    ("none", "f16"): "half x half",
    ("int8_wo", "bf16"): "bf16 x bf16",
    ("int4_wo", "f16"): "half x half",
    ("fp8", "bf16"): "fp8_e4m3 x fp8_e4m3",
    ("fp8", "f16"): "fp8_e4m3 x fp8_e4m3",
    ("int8_sq", "bf16"): "int8 x int8",
    ("int8_sq", "f16"): "int8 x int8",
}


@pytest.fixture(scope="module")
def tensorrt() -> TensorRT:
    found = find_tensorrt()
    assert found is not None, "install the extra rtx"
    return found


def plans_of(
    segments: Sequence[SegmentType],
    dtype: str,
    tensorrt: TensorRT,
    capability: tuple[int, int] = ADA,
) -> list[Plan]:
    jobs = [PlanJob(s, emit_segment(s, dtype), capability, 12, 200) for s in segments]
    return build_plans(jobs, tensorrt)


@pytest.mark.parametrize(("scheme", "dtype"), OPERANDS)
def test_gemms_have_the_operands_asked_for(scheme: str, dtype: str, tensorrt: TensorRT) -> None:
    segments = tiny_segments(scheme, dtype, bias=True, tp_size=1)
    output = "half" if dtype == "f16" else "bf16"
    for segment, plan in zip(segments, plans_of(segments, dtype, tensorrt), strict=True):
        layers = [node.output.name for node in segment.nodes if node.op == "linear"]
        is_plain = segment.name == "head" and scheme != "int8_wo"
        operands = OPERANDS["none" if is_plain else scheme, dtype]
        assert plan.gemm_operands == tuple(f"{name}: {operands} -> {output}" for name in layers)
        assert plan.data.startswith(b"vtrt")
        assert plan.seconds > 0


@pytest.mark.parametrize("capability", [AMPERE, (8, 6), BLACKWELL])
def test_sharded_segments_build_for_every_capability(
    capability: tuple[int, int], tensorrt: TensorRT
) -> None:
    plans_of(tiny_segments("int8_sq", "bf16", True, tp_size=2), "bf16", tensorrt, capability)
