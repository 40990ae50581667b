# SPDX-License-Identifier: Apache-2.0
"""Segments as ONNX: their interface, and their numbers against a float32 reference."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from enginery.builder.errors import BuildError
from enginery.builder.targets.tensorrt.onnx_segment import (
    emit_segment,
    onnx_shape,
    segment_record,
)
from enginery.builder.targets.tensorrt.segment import (
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)
from enginery.plugins.emulate.onnx_segment import OnnxSegment
from tests.support.segments import NUMPY, Array, random_operands, reference, tiny_segments

SCHEMES = ("none", "int8_wo", "int4_wo", "fp8", "int8_sq")
DTYPES = ("f16", "bf16")
# Relative error (Frobenius norm) allowed against the float32 reference. The model rounds to 16
# bits the results of GEMMs and the weights that it dequantises; where activations are quantised,
# some fall on the other side of a boundary between two codes for that, up to 6% apart in FP8.
TOLERANCE = {
    ("f16", "none"): 1e-3,
    ("f16", "int8_wo"): 1e-3,
    ("f16", "int4_wo"): 1e-3,
    ("f16", "fp8"): 2e-2,
    ("f16", "int8_sq"): 1e-2,
    ("bf16", "none"): 8e-3,
    ("bf16", "int8_wo"): 8e-3,
    ("bf16", "int4_wo"): 8e-3,
    ("bf16", "fp8"): 4e-2,
    ("bf16", "int8_sq"): 2e-2,
}
ONNX_NAMES = {
    "f32": "FLOAT",
    "f16": "FLOAT16",
    "bf16": "BFLOAT16",
    "i8": "INT8",
    "i4": "INT4",
    "f8e4m3": "FLOAT8E4M3FN",
}
# Against a reference that rounds where the model does: what is left is the order of summation,
# which seldom moves a value over a boundary.
SAME_ROUNDING_TOLERANCE = 5e-3


def run(
    segment: SegmentType, dtype: str, operands: dict[str, Array], rows: int
) -> dict[str, Array]:
    memory = dict(operands)
    outputs: dict[str, NDArray[np.generic]] = {
        item.name: np.full((rows, item.columns), 1.5, NUMPY[item.dtype]) for item in segment.outputs
    }
    OnnxSegment(emit_segment(segment, dtype)).run(rows, memory | outputs)
    return outputs


def relative_error(actual: Array, expected: NDArray[np.float32]) -> float:
    wide = actual.astype(np.float32)
    return float(np.linalg.norm(wide - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("bias", "tp_size", "scales_columns"),
    [(False, 1, False), (False, 2, False), (True, 1, False), (True, 2, False), (False, 1, True)],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_are_those_of_the_reference(
    scheme: str, dtype: str, bias: bool, tp_size: int, scales_columns: bool
) -> None:
    for segment in tiny_segments(scheme, dtype, bias, tp_size, scales_columns):
        for rows in (1, 7):
            operands = random_operands(segment, rows, np.random.default_rng(rows))
            actual = run(segment, dtype, operands, rows)
            for gemm_dtype, tolerance in (
                ("f32", TOLERANCE[dtype, scheme]),
                (dtype, SAME_ROUNDING_TOLERANCE),
            ):
                for name, expected in reference(segment, operands, gemm_dtype).items():
                    error = relative_error(actual[name], expected)
                    assert error < tolerance, (segment.name, name, rows, gemm_dtype)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_operand_shows(scheme: str) -> None:
    # The control of the test above: its tolerance tells one tensor of many from another.
    segment = tiny_segments(scheme, "f16", bias=True, tp_size=1, scales_columns=True)[1]
    operands = random_operands(segment, 5, np.random.default_rng(0))
    expected = reference(segment, operands, "f16")
    for item in segment.tensors:
        # Channels in another order, or an activation scale that is 5% off.
        array = operands[item.name]
        wrong = array * np.float32(1.05) if item.role == "inverse" else np.roll(array, 7, axis=0)
        actual = run(segment, "f16", operands | {item.name: wrong}, 5)
        error = max(relative_error(actual[name], expected[name]) for name in expected)
        assert error > 2 * SAME_ROUNDING_TOLERANCE, item.name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_interface_is_the_segments(scheme: str, dtype: str) -> None:
    for tp_size in (1, 2):
        for segment in tiny_segments(scheme, dtype, bias=True, tp_size=tp_size):
            model = onnx.load_from_string(emit_segment(segment, dtype))
            onnx.checker.check_model(model, full_check=True)
            assert [item.version for item in model.opset_import] == [21]
            assert model.ir_version == 10
            record = segment_record(segment)
            for described, graph in (
                (record["inputs"], model.graph.input),
                (record["outputs"], model.graph.output),
            ):
                assert [item["name"] for item in described] == [item.name for item in graph]
                for item, info in zip(described, graph, strict=True):
                    kind = info.type.tensor_type
                    sizes = [size.dim_param or size.dim_value for size in kind.shape.dim]
                    assert item["shape"] == sizes
                    assert ONNX_NAMES[item["dtype"]] == onnx.TensorProto.DataType.Name(
                        kind.elem_type
                    )
            assert [item["kind"] for item in record["inputs"]] == [
                "value" if isinstance(item, SegmentValue) else "tensor" for item in segment.inputs
            ]
            # Constants are scalars and sizes: no weight is inside.
            assert sum(len(item.raw_data) for item in model.graph.initializer) < 100


def test_static_scales_stand_ready_to_be_broadcast() -> None:
    segment = tiny_segments("fp8", "bf16", bias=True, tp_size=1)[0]
    shapes = {item.name: onnx_shape(item) for item in segment.inputs}
    assert shapes["qkv_proj.inverse"] == (1, 1)
    assert shapes["qkv_proj.scale"] == (1, 384)
    assert shapes["qkv_proj.weight"] == (384, 128)
    assert shapes["x"] == ("tokens", 128)


def test_segments_of_equal_structure_are_the_same_bytes() -> None:
    segment = tiny_segments("fp8", "bf16", bias=True, tp_size=1)[1]
    renamed = dataclasses.replace(segment, name="another")
    assert emit_segment(segment, "bf16") == emit_segment(renamed, "bf16")
    assert emit_segment(segment, "bf16") != emit_segment(segment, "f16")


def test_missing_onnx_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BuildError, match=r"onnx: is not installed \(pip install 'enginery\[rtx\]'"):
        emit_segment(tiny_segments("none", "bf16", bias=False, tp_size=1)[0], "bf16")


def test_large_products_stay_finite_in_float16() -> None:
    # K = 4096 codes at the end of FP8's range: their products sum to 2^30 without the step.
    x = SegmentValue("x", "f16", "tokens", 4096)
    tensors = (
        SegmentTensor("layer.inverse", "f32", (1,), "inverse", "layer"),
        SegmentTensor("layer.weight", "f8e4m3", (16, 4096), "weight", "layer"),
        SegmentTensor("layer.scale", "f32", (16,), "scale", "layer"),
    )
    codes = SegmentValue("codes", "f8e4m3", "tokens", 4096)
    y = SegmentValue("y", "f32", "tokens", 16)
    nodes = (
        SegmentNode("quantize", ("x", "layer.inverse"), codes),
        SegmentNode("linear", ("codes", "layer.weight", "layer.scale"), y, scheme="fp8"),
    )
    operands: dict[str, Array] = {
        "x": np.full((2, 4096), 2, np.float16),
        "layer.inverse": np.full(1, 300, np.float32),  # 600, past the largest code
        "layer.weight": np.full((16, 4096), 448, NUMPY["f8e4m3"]),
        "layer.scale": np.full(16, 2.0**-20, np.float32),
    }
    actual = run(SegmentType("one", (x, *tensors), (y,), nodes), "f16", operands, 2)
    np.testing.assert_allclose(actual["y"], 448 * 448 * 4096 / 2**20, rtol=1e-3)
