# SPDX-License-Identifier: Apache-2.0
"""Segments as ONNX: their interface, and their numbers against a float32 reference."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from enginery.builder.targets.tensorrt.onnx_segment import emit_segment, onnx_shape, segment_record
from enginery.builder.targets.tensorrt.segment import SegmentType
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


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_are_those_of_the_reference(
    scheme: str, dtype: str, bias: bool, tp_size: int
) -> None:
    for segment in tiny_segments(scheme, dtype, bias, tp_size):
        for rows in (1, 7):
            operands = random_operands(segment, rows, np.random.default_rng(rows))
            actual = run(segment, dtype, operands, rows)
            for gemm_dtype, tolerance in (
                ("f32", TOLERANCE[dtype, scheme]),
                (dtype, SAME_ROUNDING_TOLERANCE),
            ):
                for name, expected in reference(segment, operands, gemm_dtype).items():
                    error = relative_error(actual[name], expected)
                    print(f"{scheme} {dtype} {gemm_dtype} {segment.name} {name}: {error:.2e}")
                    assert error < tolerance, (segment.name, name, rows, gemm_dtype)
