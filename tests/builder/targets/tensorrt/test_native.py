# SPDX-License-Identifier: Apache-2.0
"""Segments as launches: what is fused, which operands are passed, what scratch is shared."""

from __future__ import annotations

import pytest

from enginery.builder.targets.tensorrt.kernels import POINTERS, KernelSet
from enginery.builder.targets.tensorrt.native import NativeSegment, fuse_products, lower_segment
from enginery.builder.targets.tensorrt.segment import SegmentType
from enginery.plugins.kernels.spec import KERNELS
from tests.support.segments import tiny_segments

SCHEMES = ["none", "int8_wo", "int4_wo", "fp8", "int8_sq"]
HOPPER = (9, 0)


def segments(
    scheme: str, dtype: str = "bf16", bias: bool = False, scales_columns: bool = False
) -> dict[str, SegmentType]:
    made = tiny_segments(scheme, dtype, bias, 1, scales_columns)
    return {segment.name: segment for segment in made}


def lower(
    segment: SegmentType, max_rows: int = 8192, capability: tuple[int, int] = HOPPER
) -> tuple[NativeSegment, KernelSet]:
    kernels = KernelSet()
    return lower_segment(segment, kernels, capability, max_rows), kernels


def specs(native: NativeSegment, kernels: KernelSet) -> list[str]:
    return [kernels.kernels[launch.variants[0].kernel].spec for launch in native.launches]


def test_a_middle_segment_takes_six_launches_and_codes_need_one_more() -> None:
    plain = ["gemm", "rms_norm", "gemm_swiglu", "gemm", "rms_norm", "gemm"]
    for scheme in SCHEMES:
        native, kernels = lower(segments(scheme)["middle"])
        quantises = scheme in ("fp8", "int8_sq")
        assert specs(native, kernels) == ["quantize"] * quantises + plain, scheme
        # What scales columns quantises them too.
        native, kernels = lower(segments(scheme, scales_columns=True)["middle"])
        assert specs(native, kernels) == ["scale_columns", *plain], scheme
        assert ("inverse" in native.launches[0].args) == quantises


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scales_columns", [False, True])
def test_every_launch_passes_operands_that_are_there_with_their_types(
    scheme: str, dtype: str, bias: bool, scales_columns: bool
) -> None:
    for segment in segments(scheme, dtype, bias, scales_columns).values():
        native, kernels = lower(segment)
        there = {item.name: item.dtype for item in (*segment.inputs, *segment.outputs)}
        there |= {value.name: value.dtype for value in native.scratch}
        written: set[str] = {item.name for item in segment.inputs}
        used: set[str] = set()
        for launch in native.launches:
            for variant in launch.variants:
                kernel = kernels.kernels[variant.kernel]
                assert set(launch.args) == set(kernel.types)
                for parameter, operand in launch.args.items():
                    if operand == "#rows":
                        assert kernel.types[parameter] == "i32"
                    else:
                        assert kernel.types[parameter] == POINTERS[there[operand]]
            output = launch.args.get("y") or launch.args["out"]
            inputs = {v for p, v in launch.args.items() if p not in ("y", "out") and v != "#rows"}
            assert inputs <= written, "an operand is read before it is written"
            assert output not in inputs, "a launch writes what it reads"
            written.add(output)
            used |= inputs
        assert {item.name for item in segment.outputs} <= written
        assert {item.name for item in segment.inputs} <= used, "an input is not passed"


def test_bias_and_residual_are_operands_of_the_gemm() -> None:
    plain, _ = lower(segments("none")["first"])
    biased, _ = lower(segments("none", bias=True)["first"])
    assert "bias" not in plain.launches[-1].args and "bias" in biased.launches[-1].args
    middle, kernels = lower(segments("none")["middle"])
    gemms = [
        launch
        for launch in middle.launches
        if kernels.kernels[launch.variants[0].kernel].spec == "gemm"
    ]
    assert ["residual" in launch.args for launch in gemms] == [True, True, False]
    last = kernels.kernels[gemms[-1].variants[0].kernel]
    assert last.constants["residual"] is None, "what is left out is a constant"


def test_scratch_is_shared_where_lifetimes_allow() -> None:
    native, _ = lower(segments("none")["middle"])
    # Both norms share one; x between the halves of the layer and the activation have their own.
    shapes = sorted((value.dtype, value.columns) for value in native.scratch)
    assert shapes == [("bf16", 128), ("bf16", 512), ("f32", 128)]
    first, _ = lower(segments("none")["first"])
    assert len(first.scratch) == 1


def test_variants_grow_and_end_at_the_most_rows_there_are() -> None:
    segment = segments("none")["first"]
    for max_rows in (1, 16, 17, 8192):
        native, _ = lower(segment, max_rows)
        for launch in native.launches:
            bounds = [variant.max_rows for variant in launch.variants]
            finite = [bound for bound in bounds if bound is not None]
            assert bounds[-1] is None and finite == sorted(set(finite))
            assert all(bound < max_rows for bound in finite)
    few, many = lower(segment, 16)[1], lower(segment, 8192)[1]
    assert len(few.kernels) < len(many.kernels)


def test_grids_cover_every_column() -> None:
    for scheme in SCHEMES:
        native, kernels = lower(segments(scheme)["middle"])
        for launch in native.launches:
            for variant in launch.variants:
                constants = kernels.kernels[variant.kernel].constants
                columns = constants.get("N") or constants.get("F")
                if columns is None:
                    continue
                block = constants["BLOCK_N"]
                assert isinstance(block, int) and isinstance(columns, int)
                assert (variant.blocks - 1) * block < columns <= variant.blocks * block
                assert variant.block_rows == constants["BLOCK_M"]


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_each_capability_has_kernels(capability: tuple[int, int]) -> None:
    native, kernels = lower(segments("int8_sq")["middle"], capability=capability)
    assert native.launches and all(kernel.spec in KERNELS for kernel in kernels.kernels.values())


def test_equal_kernels_are_one() -> None:
    kernels = KernelSet()
    segment = segments("none")["middle"]
    lower_segment(segment, kernels, HOPPER, 100)
    names = set(kernels.kernels)
    lower_segment(segment, kernels, HOPPER, 100)
    assert set(kernels.kernels) == names
    # The norms of first and middle are the same kernel.
    lower_segment(segments("none")["first"], kernels, HOPPER, 100)
    assert sum(name.startswith("rms_norm") for name in kernels.kernels) == 1


def test_the_product_is_fused_once_only_when_nothing_else_reads_gate_and_up() -> None:
    groups = fuse_products(segments("fp8")["middle"])
    fused = [group for group in groups if group.product is not None]
    assert [group.node.op for group in fused] == ["linear"]
    assert fused[0].output.dtype == "f8e4m3" and len(fused[0].inputs) == 4
