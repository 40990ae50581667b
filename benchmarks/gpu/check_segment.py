# SPDX-License-Identifier: Apache-2.0
"""Runs every form of the MLP segment on the CPU, and builds a plan of it; needs no GPU.

    python -m benchmarks.gpu.check_segment

Prints, for each scheme and form, the error of onnxruntime (graph optimisation off) against the
float32 reference, and the GEMM operand types that TensorRT-RTX chose, read from the plan.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.gpu.plan import build_plan, gemm_operands
from benchmarks.gpu.reference import Reference
from benchmarks.gpu.segment import FORMS, Segment, emit, quantize, random_segment, segment_inputs

HIDDEN, FFN, TOKENS = 1024, 2048, 16


def run_on_cpu(
    model: bytes, segment: Segment, form: str, x: NDArray[np.float16]
) -> NDArray[np.float16]:
    """The segment's output `[num_tokens, hidden]` by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    value = onnxruntime.OrtValue
    feed = {"x": value.ortvalue_from_numpy(x)}
    for name, array in ({} if form == "constants" else segment_inputs(segment)).items():
        array = np.ascontiguousarray(array)
        if array.dtype == np.uint8:
            kind = onnx.TensorProto.FLOAT8E4M3FN
            feed[name] = value.ortvalue_from_numpy_with_onnx_type(array, kind)
        else:
            feed[name] = value.ortvalue_from_numpy(array)
    y: NDArray[np.float16] = session.run_with_ort_values(None, feed)[0].numpy()
    return y


def beyond_float16(scheme: str, k: int = 4096) -> float:
    """Fraction of sums of `k` products of codes that float16 cannot hold.

    That is what a MatMul between DequantizeLinear nodes of scale 1 puts out.
    """
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((256, k), dtype=np.float32)
    linear = quantize(weight, scheme, "fp16", input_amax=6.0)
    assert linear.input_scale is not None
    stored = ml_dtypes.float8_e4m3fn if scheme == "fp8" else np.int8
    codes = linear.codes.view(stored).astype(np.float32)
    x = rng.standard_normal((64, k), dtype=np.float32) / np.float32(linear.input_scale)
    return float((np.abs(x @ codes.T) > np.finfo(np.float16).max).mean())


def main() -> None:
    x = np.random.default_rng(1).standard_normal((TOKENS, HIDDEN)).astype(np.float16)
    for scheme in ("none", "fp8", "int8", "int8_wo"):
        segment = random_segment(HIDDEN, FFN, "fp16", scheme)
        reference = Reference(segment, "cpu")
        for form in FORMS:
            if form == "pow2_scale" and scheme not in ("fp8", "int8"):
                continue
            model = emit(segment, form).SerializeToString()
            y = run_on_cpu(model, segment, form, x)
            error = reference.relative_error(torch.from_numpy(x), torch.from_numpy(y))
            plan = build_plan(model, HIDDEN)
            print(f"{scheme:8} {form:11} error {error:.5f}  {len(plan):9} bytes", end="  ")
            print(*gemm_operands(plan))
    for scheme in ("fp8", "int8"):
        share = beyond_float16(scheme)
        print(f"{scheme:8} unit_scale  {share:.0%} of sums of 4096 code products exceed float16")


if __name__ == "__main__":
    main()
