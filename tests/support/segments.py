# SPDX-License-Identifier: Apache-2.0
"""Segments of tiny decoders, random operands for them, and what they must compute, in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from enginery.builder.targets.tensorrt.segment import (
    SegmentInput,
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)

HIDDEN, FFN, VOCAB = 128, 256, 333
Q_COLUMNS, KV_COLUMNS = 256, 64  # K of every row-parallel layer is a multiple of 128 for tp 2
EPSILON = 1e-5
CODES = {"fp8": "f8e4m3", "int8_sq": "i8"}
LARGEST = {"fp8": 448.0, "int8_sq": 127.0, "int8_wo": 127.0, "int4_wo": 7.0}
NUMPY: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i8": np.dtype(np.int8),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
}

Array = NDArray[np.generic]
Reals = NDArray[np.float32]


class _Segment:
    """Collects the nodes of a segment; methods give the value computed."""

    def __init__(self, scheme: str, dtype: str, rows: str = "tokens") -> None:
        self.scheme, self.dtype, self.rows = scheme, dtype, rows
        self.inputs: dict[str, SegmentInput] = {}
        self.nodes: list[SegmentNode] = []

    def value(self, name: str, dtype: str, columns: int) -> SegmentValue:
        value = SegmentValue(name, dtype, self.rows, columns)
        self.inputs[name] = value
        return value

    def norm(self, name: str, x: SegmentValue, reader: str, static: bool = True) -> SegmentValue:
        weight = self._tensor(name, "norm", "f32", (x.columns,))
        dtype, inverse = self._code(reader) if static else (self.dtype, None)
        return self._node("rms_norm", (x.name, weight, inverse), name, dtype, x.columns, EPSILON)

    def quantized(self, x: SegmentValue, reader: str) -> SegmentValue:
        dtype, inverse = self._code(reader)
        if inverse is None:
            return x
        return self._node("quantize", (x.name, inverse), f"{x.name}_codes", dtype, x.columns)

    def silu_mul(self, gate_up: SegmentValue, reader: str) -> SegmentValue:
        dtype, inverse = self._code(reader)
        columns = gate_up.columns // 2
        return self._node("silu_mul", (gate_up.name, inverse), "silu_mul", dtype, columns)

    def add(self, a: SegmentValue, b: SegmentValue, output: str) -> SegmentValue:
        return self._node("add", (a.name, b.name), output, "f32", a.columns)

    def linear(
        self,
        name: str,
        x: SegmentValue,
        columns: int,
        dtype: str = "f32",
        bias: bool = False,
        residual: SegmentValue | None = None,
        output: str | None = None,
        scheme: str | None = None,
    ) -> SegmentValue:
        scheme = scheme or self.scheme
        stored = CODES.get(scheme) or {"int8_wo": "i8", "int4_wo": "i4"}.get(scheme, self.dtype)
        weight = self._tensor(name, "weight", stored, (columns, x.columns))
        scale = None
        if scheme in CODES:
            scale = self._tensor(name, "scale", "f32", (columns,))
        elif scheme == "int8_wo":
            scale = self._tensor(name, "scale", self.dtype, (columns,))
        elif scheme == "int4_wo":
            scale = self._tensor(name, "scale", self.dtype, (columns, x.columns // 128))
        shift = self._tensor(name, "bias", "f32", (columns,)) if bias else None
        operands = (x.name, weight, scale, shift, residual.name if residual else None)
        return self._node("linear", operands, output or name, dtype, columns, scheme=scheme)

    def made(self, name: str, *outputs: SegmentValue) -> SegmentType:
        inputs = sorted(self.inputs.values(), key=lambda item: isinstance(item, SegmentTensor))
        return SegmentType(name, tuple(inputs), outputs, tuple(self.nodes))

    def _code(self, reader: str) -> tuple[str, str | None]:
        if self.scheme not in CODES:
            return self.dtype, None
        return CODES[self.scheme], self._tensor(reader, "inverse", "f32", (1,))

    def _tensor(self, owner: str, role: str, dtype: str, shape: tuple[int, ...]) -> str:
        name = f"{owner}.{role}"
        self.inputs[name] = SegmentTensor(name, dtype, shape, role, owner)
        return name

    def _node(
        self,
        op: str,
        inputs: tuple[str | None, ...],
        name: str,
        dtype: str,
        columns: int,
        epsilon: float = 0.0,
        scheme: str = "",
    ) -> SegmentValue:
        output = SegmentValue(name, dtype, self.rows, columns)
        self.nodes.append(SegmentNode(op, inputs, output, epsilon, scheme))
        return output


def tiny_segments(scheme: str, dtype: str, bias: bool, tp_size: int) -> list[SegmentType]:
    """The segment types of rank 0 of a decoder; `bias` on query, key and value, as in Qwen2."""
    qkv_columns = (Q_COLUMNS + 2 * KV_COLUMNS) // tp_size
    ffn = FFN // tp_size

    def qkv(s: _Segment, x: SegmentValue) -> SegmentValue:
        normed = s.norm("input_norm", x, "qkv_proj")
        return s.linear("qkv_proj", normed, qkv_columns, dtype, bias=bias, output="qkv")

    def ffn_part(s: _Segment, x: SegmentValue, **down: SegmentValue | str | None) -> SegmentValue:
        gate_up = s.linear("gate_up_proj", s.norm("post_norm", x, "gate_up_proj"), 2 * ffn)
        act = s.silu_mul(gate_up, "down_proj")
        residual, output = down.get("residual"), str(down["output"])
        assert not isinstance(residual, str)
        return s.linear("down_proj", act, HIDDEN, residual=residual, output=output)

    def attention(s: _Segment) -> SegmentValue:
        return s.quantized(s.value("attention", dtype, Q_COLUMNS // tp_size), "o_proj")

    s = _Segment(scheme, dtype)
    made = [s.made("first", qkv(s, s.value("x", "f32", HIDDEN)))]
    if tp_size == 1:
        for name in ("middle", "last"):
            s = _Segment(scheme, dtype)
            x = s.linear("o_proj", attention(s), HIDDEN, residual=s.value("x", "f32", HIDDEN))
            out = ffn_part(s, x, residual=x, output="x_out")
            made.append(s.made(name, out, *([qkv(s, out)] if name == "middle" else [])))
    else:
        s = _Segment(scheme, dtype)
        made.append(s.made("output", s.linear("o_proj", attention(s), HIDDEN, output="partial")))
        s = _Segment(scheme, dtype)
        x = s.add(s.value("x", "f32", HIDDEN), s.value("sum", "f32", HIDDEN), "x_out")
        made.append(s.made("mlp", x, ffn_part(s, x, output="partial")))
        s = _Segment(scheme, dtype)
        x = s.add(s.value("x", "f32", HIDDEN), s.value("sum", "f32", HIDDEN), "x_out")
        made.append(s.made("next", x, qkv(s, x)))
    s = _Segment(scheme, dtype, "logits")
    normed = s.norm("norm", s.value("x", "f32", HIDDEN), "lm_head", static=False)
    head = "int8_wo" if scheme == "int8_wo" else "none"
    made.append(s.made("head", s.linear("lm_head", normed, VOCAB, output="logits", scheme=head)))
    return made


def random_operands(segment: SegmentType, rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Every input, as stored; `i4` is packed. Values and products have a variance near 1."""
    operands: dict[str, Array] = {}
    schemes = {str(node.inputs[1]): node.scheme for node in segment.nodes if node.op == "linear"}
    for item in segment.inputs:
        if isinstance(item, SegmentValue):
            values = rng.standard_normal((rows, item.columns))
            operands[item.name] = values.astype(NUMPY[item.dtype])
        elif item.role == "norm":
            operands[item.name] = (1 + 0.2 * rng.standard_normal(item.shape)).astype(np.float32)
        elif item.role == "bias":
            operands[item.name] = rng.standard_normal(item.shape).astype(np.float32)
        elif item.role == "weight":
            # Channels of different size, so that a scale in the wrong place shows.
            weight = rng.standard_normal(item.shape) * np.exp2(
                rng.uniform(-2, 1, (item.shape[0], 1))
            )
            weight *= item.shape[1] ** -0.5
            scheme = schemes[item.name]
            scales = {t.name: t.dtype for t in segment.tensors if t.role == "scale"}
            operands |= _stored(item, weight, scheme, scales.get(f"{item.owner}.scale", "f32"))
    return operands


def _stored(
    item: SegmentTensor, weight: NDArray[np.float64], scheme: str, scale_dtype: str
) -> dict[str, Array]:
    """A weight `[N, K]` of a scheme, with its scale and its layer's inverse."""
    if scheme == "none":
        return {item.name: weight.astype(NUMPY[item.dtype])}
    (n, k), largest, owner = item.shape, LARGEST[scheme], item.owner
    blocks = weight.reshape(n, k // 128 if scheme == "int4_wo" else 1, -1)
    scale = (np.abs(blocks).max(2) / largest).astype(NUMPY[scale_dtype])
    codes = np.clip(blocks / scale.astype(np.float64)[:, :, None], -largest, largest)
    codes = codes.reshape(n, k)
    if scheme in CODES:
        input_scale = np.float32(3.0 / largest)  # clips a few values in a thousand
        return {
            item.name: (codes if scheme == "fp8" else np.rint(codes)).astype(NUMPY[item.dtype]),
            f"{owner}.inverse": np.array([1 / input_scale], np.float32),
            f"{owner}.scale": scale[:, 0] * input_scale,
        }
    integers = np.rint(codes).astype(np.int8)
    if scheme == "int8_wo":
        return {item.name: integers, f"{owner}.scale": scale[:, 0]}
    nibbles = (integers.reshape(-1) & 15).astype(np.uint8)
    return {item.name: nibbles[0::2] | (nibbles[1::2] << 4), f"{owner}.scale": scale}


def reference(
    segment: SegmentType, operands: Mapping[str, Array], gemm_dtype: str = "f32"
) -> dict[str, Reals]:
    """Outputs in float32: rounded and quantised where the segment says, and nowhere else.

    With a 16-bit `gemm_dtype`, results of GEMMs and dequantised weights are rounded to it too, as
    in the segment's ONNX.
    """
    tensors: dict[str, Reals] = {}
    for item in segment.inputs:
        array = operands[item.name]
        if item.dtype == "i4":
            assert isinstance(item, SegmentTensor)
            packed = array.astype(np.int16)
            codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(item.shape)
            tensors[item.name] = np.where(codes > 7, codes - 16, codes).astype(np.float32)
        else:
            tensors[item.name] = array.astype(np.float32)
    for node in segment.nodes:
        read = [tensors[name] if name else None for name in node.inputs]
        tensors[node.output.name] = _node_reference(node, read, gemm_dtype)
    return {item.name: tensors[item.name] for item in segment.outputs}


def _node_reference(node: SegmentNode, read: list[Reals | None], gemm_dtype: str) -> Reals:
    x, *rest = read
    assert x is not None
    inverse = None
    if node.op == "linear":
        weight, scale, bias, residual = rest
        assert weight is not None
        if node.scheme == "int4_wo" and scale is not None:
            weight, scale = _rounded(weight * np.repeat(scale, 128, axis=1), gemm_dtype), None
        elif node.scheme == "int8_wo" and scale is not None and gemm_dtype != "f32":
            weight, scale = _rounded(weight * scale[:, None], gemm_dtype), None
        # Codes stand for values up to 1: a power of two, which matters only to float16's range.
        shrink = {"fp8": np.float32(2**-18), "int8_sq": np.float32(2**-14)}.get(node.scheme, 1)
        y = _rounded(x @ weight.T * shrink, gemm_dtype) / shrink
        y = y if scale is None else y * scale
        for term in (bias, residual):
            y = y if term is None else y + term
    elif node.op == "add":
        assert rest[0] is not None
        y = x + rest[0]
    elif node.op == "rms_norm":
        weight, inverse = (*rest, None)[:2]
        assert weight is not None
        mean = np.mean(np.square(x), axis=1, keepdims=True, dtype=np.float32)
        y = x / np.sqrt(mean + np.float32(node.epsilon)) * weight
    elif node.op == "silu_mul":
        gate, up = np.split(x, 2, axis=1)
        y, inverse = gate / (1 + np.exp(-gate)) * up, (*rest, None)[0]
    else:
        assert node.op == "quantize"
        y, inverse = x, rest[0]
    return _rounded(y if inverse is None else y * inverse, node.output.dtype)


def _rounded(values: Reals, dtype: str) -> Reals:
    if dtype == "i8":
        return np.rint(np.clip(values, -128, 127)).astype(np.float32)
    if dtype == "f8e4m3":
        values = np.clip(values, -448, 448)
    rounded: Reals = values.astype(NUMPY[dtype]).astype(np.float32)
    return rounded
