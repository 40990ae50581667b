# SPDX-License-Identifier: Apache-2.0
"""One decoder MLP segment as ONNX: RMSNorm, gate+up, SwiGLU, down, residual.

The same arithmetic is emitted in several forms, so that a target can be asked which of them
it runs and at what speed:

    constants   weights are initializers, Q/DQ carry the real scales
    unit_scale  weights and scales are graph inputs, Q/DQ carry scale 1:
                x * (1/s_x) -> Q(1) -> DQ(1); W -> DQ(1); MatMul; * (s_x * s_w) per channel
    pow2_scale  as unit_scale, but Q/DQ carry a constant power of two that brings the codes into
                [-1, 1], so that the MatMul's half-precision output cannot overflow: with unit
                scales a sum of K = 4096 products of FP8 codes has a standard deviation near
                7e5, and float16 ends at 65504

Weights are `[out_features, in_features]`, as checkpoints store them.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

Array = NDArray[np.generic]

SCHEMES = ("none", "fp8", "int8", "int8_wo", "int4_wo")
FORMS = ("constants", "unit_scale", "pow2_scale")
INT4_BLOCK = 128
EPSILON = 1e-5

_FLOAT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_CODE = {
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int8": TensorProto.INT8,
    "int8_wo": TensorProto.INT8,
    "int4_wo": TensorProto.INT4,
}
_QMAX = {"fp8": 448.0, "int8": 127.0, "int8_wo": 127.0, "int4_wo": 7.0}
# The power of two that brings the largest code to at most 1.
_POW2 = {"fp8": 2.0**-9, "int8": 2.0**-7}


@dataclasses.dataclass(frozen=True)
class Linear:
    """One linear layer's stored weight.

    Attributes:
        codes: `[N, K]`; the activation dtype for "none", uint8 (E4M3 bits) for "fp8", else int8.
        weight_scale: real = code * scale; `[N]`, or `[N, K / 128]` for "int4_wo"; float32 values
            that the activation dtype holds exactly; None for "none".
        input_scale: per-tensor activation scale for "fp8" and "int8", else None.
    """

    codes: Array
    weight_scale: NDArray[np.float32] | None = None
    input_scale: float | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """Shape, dtype, scheme and weights of one MLP segment."""

    hidden: int
    ffn: int
    dtype: str
    scheme: str
    gamma: Array
    gate_up: Linear
    down: Linear


def as_dtype(array: Array, dtype: str) -> Array:
    """`array` rounded to "fp16" or "bf16"."""
    return np.asarray(array).astype(_NUMPY[dtype])


def quantize(weight: NDArray[np.float32], scheme: str, dtype: str, input_amax: float) -> Linear:
    """Symmetric quantisation of `[N, K]` float32, scales rounded to what `dtype` holds."""
    if scheme == "none":
        return Linear(as_dtype(weight, dtype))
    qmax = _QMAX[scheme]
    n, k = weight.shape
    blocks = weight.reshape(n, -1, INT4_BLOCK) if scheme == "int4_wo" else weight[:, None, :]
    scale = as_dtype(np.abs(blocks).max(2) / qmax, dtype).astype(np.float32)
    scaled = blocks / scale[:, :, None]
    if scheme == "fp8":
        codes = np.clip(scaled, -qmax, qmax).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    else:
        codes = np.clip(np.rint(scaled), -qmax, qmax).astype(np.int8)
    input_scale = None
    if scheme in ("fp8", "int8"):
        input_scale = float(as_dtype(np.array(input_amax / qmax, np.float32), dtype))
    return Linear(codes.reshape(n, k), scale if scheme == "int4_wo" else scale[:, 0], input_scale)


@functools.lru_cache(maxsize=1)
def _gaussian_weights(hidden: int, ffn: int, seed: int) -> tuple[NDArray[np.float32], ...]:
    """Gamma `[hidden]`, gate_up `[2 * ffn, hidden]`, down `[hidden, ffn]`."""
    rng = np.random.default_rng(seed)
    gamma = 1 + 0.1 * rng.standard_normal(hidden, dtype=np.float32)
    gate_up = rng.standard_normal((2 * ffn, hidden), dtype=np.float32) * hidden**-0.5
    down = rng.standard_normal((hidden, ffn), dtype=np.float32) * ffn**-0.5
    return gamma.astype(np.float32), gate_up.astype(np.float32), down.astype(np.float32)


def random_segment(hidden: int, ffn: int, dtype: str, scheme: str, seed: int = 0) -> Segment:
    """A segment with Gaussian weights whose activations keep unit variance.

    The activation ranges are those of this distribution: |norm output| stays under 6, and
    |silu(gate) * up| under 16, except for tails that saturate in every form alike.
    """
    gamma, gate_up, down = _gaussian_weights(hidden, ffn, seed)
    return Segment(
        hidden, ffn, dtype, scheme,
        as_dtype(gamma, dtype),
        quantize(gate_up, scheme, dtype, input_amax=6.0),
        quantize(down, scheme, dtype, input_amax=16.0),
    )  # fmt: skip


def placeholder_segment(hidden: int, ffn: int, dtype: str, scheme: str) -> Segment:
    """Shapes and dtypes without memory behind them, enough to emit weights-as-inputs forms."""

    def linear(n: int, k: int) -> Linear:
        if scheme == "none":
            return Linear(np.broadcast_to(as_dtype(np.zeros((), np.float32), dtype), (n, k)))
        shape = (n, k // INT4_BLOCK) if scheme == "int4_wo" else (n,)
        scale = np.broadcast_to(np.float32(1), shape)
        return Linear(np.broadcast_to(np.int8(0), (n, k)), scale, 1.0 if scheme in _POW2 else None)

    gamma = np.broadcast_to(as_dtype(np.zeros((), np.float32), dtype), (hidden,))
    return Segment(hidden, ffn, dtype, scheme, gamma, linear(2 * ffn, hidden), linear(hidden, ffn))


def segment_inputs(segment: Segment) -> dict[str, Array]:
    """The arrays bound to a plan whose weights are inputs, by tensor name."""
    inputs: dict[str, Array] = {"gamma": segment.gamma}
    for name, linear in (("gate_up", segment.gate_up), ("down", segment.down)):
        inputs[name] = linear.codes
        if linear.weight_scale is None:
            continue
        if linear.input_scale is None:
            inputs[f"{name}_scale"] = as_dtype(linear.weight_scale, segment.dtype)
        else:
            inputs[f"{name}_inverse"] = np.full((1, 1), 1 / linear.input_scale, np.float32)
            inputs[f"{name}_scale"] = (linear.weight_scale * linear.input_scale)[None, :]
    return inputs


class _Emitter:
    """Appends ONNX nodes, initializers and inputs; every method returns a tensor name."""

    def __init__(self, segment: Segment, form: str) -> None:
        self.segment, self.form = segment, form
        self.float = _FLOAT[segment.dtype]
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, array: Array, kind: int, shape: tuple[int, ...]) -> str:
        raw = np.ascontiguousarray(array).tobytes()
        self.initializers.append(helper.make_tensor(name, kind, shape, raw, raw=True))
        return name

    def scalar(self, name: str, value: float) -> str:
        """A scalar of the activation dtype."""
        array = as_dtype(np.array(value, np.float32), self.segment.dtype)
        return self.constant(name, array, self.float, ())

    def graph_input(self, name: str, kind: int, shape: tuple[int | str, ...]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def cast(self, x: str, kind: int) -> str:
        return self.op("Cast", x, to=kind)

    def rms_norm(self, x: str) -> str:
        shape = (self.segment.hidden,)
        if self.form == "constants":
            gamma = self.constant("gamma", self.segment.gamma, self.float, shape)
        else:
            gamma = self.graph_input("gamma", self.float, shape)
        epsilon = self.constant("epsilon", np.array(EPSILON, np.float32), TensorProto.FLOAT, ())
        axis = self.constant("axis", np.array([-1], np.int64), TensorProto.INT64, (1,))
        wide = self.cast(x, TensorProto.FLOAT)
        square = self.op("ReduceMean", self.op("Mul", wide, wide), axis, keepdims=1)
        inverse = self.op("Reciprocal", self.op("Sqrt", self.op("Add", square, epsilon)))
        return self.op("Mul", self.cast(self.op("Mul", wide, inverse), self.float), gamma)

    def weight(self, name: str, linear: Linear) -> str:
        """The stored `[N, K]` weight, as an initializer or an input."""
        shape: tuple[int, ...] = linear.codes.shape
        kind = self.float if linear.weight_scale is None else _CODE[self.segment.scheme]
        if self.form != "constants":
            return self.graph_input(name, kind, shape)
        codes = linear.codes
        if self.segment.scheme == "int4_wo":
            nibbles = codes.astype(np.int8).reshape(-1) & 15
            codes = (nibbles[0::2] | (nibbles[1::2] << 4)).astype(np.uint8)
        return self.constant(name, codes, kind, shape)

    def weight_scale(self, name: str, scale: NDArray[np.float32]) -> str:
        if self.form != "constants":
            return self.graph_input(name, self.float, scale.shape)
        return self.constant(name, as_dtype(scale, self.segment.dtype), self.float, scale.shape)

    def linear(self, x: str, name: str, linear: Linear) -> str:
        weight = self.weight(name, linear)
        if linear.weight_scale is None:
            return self.matmul(x, weight)
        if linear.input_scale is None:
            scale = self.weight_scale(f"{name}_scale", linear.weight_scale)
            blocked: dict[str, int] = (
                {"block_size": INT4_BLOCK} if linear.weight_scale.ndim == 2 else {}
            )
            axis = linear.weight_scale.ndim - 1
            return self.matmul(x, self.op("DequantizeLinear", weight, scale, axis=axis, **blocked))
        kind = _CODE[self.segment.scheme]
        zero = self.constant(f"{name}_zero", np.array(0, np.uint8), kind, ())
        if self.form == "constants":
            step = self.scalar(f"{name}_input_scale", linear.input_scale)
            scale = self.weight_scale(f"{name}_scale", linear.weight_scale)
            quantized = self.op("QuantizeLinear", x, step, zero)
            x = self.op("DequantizeLinear", quantized, step, zero)
            return self.matmul(x, self.op("DequantizeLinear", weight, scale, axis=0))
        unit = 1.0 if self.form == "unit_scale" else _POW2[self.segment.scheme]
        step = self.scalar(f"{name}_unit", unit)
        inverse = self.graph_input(f"{name}_inverse", TensorProto.FLOAT, (1, 1))
        out_scale = self.graph_input(f"{name}_scale", TensorProto.FLOAT, (1, linear.codes.shape[0]))
        wide = self.op("Mul", self.cast(x, TensorProto.FLOAT), inverse)
        if unit != 1.0:
            wide = self.op("Mul", wide, self.float32(f"{name}_shrink", unit))
        # Quantising from float32 saves the rounding to 16 bits in between, which would push
        # values over a quantisation boundary; the GEMM stays fp8 x fp8 or int8 x int8.
        quantized = self.op("QuantizeLinear", wide, self.float32(f"{name}_step", unit), zero)
        x = self.op("DequantizeLinear", quantized, step, zero)
        y = self.cast(self.matmul(x, self.op("DequantizeLinear", weight, step)), TensorProto.FLOAT)
        if unit != 1.0:
            y = self.op("Mul", y, self.float32(f"{name}_grow", unit**-2))
        return self.cast(self.op("Mul", y, out_scale), self.float)

    def float32(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32), TensorProto.FLOAT, ())

    def matmul(self, x: str, weight: str) -> str:
        return self.op("MatMul", x, self.op("Transpose", weight, perm=[1, 0]))


def emit(segment: Segment, form: str) -> onnx.ModelProto:
    """The segment as an ONNX model (opset 21): `x [num_tokens, hidden]` -> `y`, same shape.

    Args:
        segment: weights are read only by the "constants" form; the others read shapes alone.
        form: one of `FORMS`; "pow2_scale" is for "fp8" and "int8".

    Raises:
        ValueError: unknown form or scheme, or "pow2_scale" on a scheme without activation scales.
    """
    if form not in FORMS or segment.scheme not in SCHEMES:
        raise ValueError(f"form {form!r}, scheme {segment.scheme!r}: take {FORMS} and {SCHEMES}")
    if form == "pow2_scale" and segment.scheme not in _POW2:
        raise ValueError(f"pow2_scale needs scheme fp8 or int8, not {segment.scheme!r}")
    e = _Emitter(segment, form)
    x = e.graph_input("x", e.float, ("num_tokens", segment.hidden))
    gate_up = e.linear(e.rms_norm(x), "gate_up", segment.gate_up)
    split = e.constant("split", np.array([segment.ffn] * 2, np.int64), TensorProto.INT64, (2,))
    e.nodes.append(helper.make_node("Split", [gate_up, split], ["gate", "up"], axis=1))
    gated = e.op("Mul", e.op("Mul", "gate", e.op("Sigmoid", "gate")), "up")
    e.nodes.append(helper.make_node("Add", [x, e.linear(gated, "down", segment.down)], ["y"]))
    output = helper.make_tensor_value_info("y", e.float, ("num_tokens", segment.hidden))
    graph = helper.make_graph(e.nodes, "mlp_segment", e.inputs, [output], e.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    return model
