# SPDX-License-Identifier: Apache-2.0
"""A segment as ONNX: what TensorRT compiles, and what onnxruntime runs where there is no GPU.

Weights and scales are graph inputs, so one model serves every layer of a segment's structure.

Statically quantised operands (`fp8`, `int8_sq`) are written so that TensorRT sees an FP8 or INT8
GEMM although no scale is known when it compiles: the activation is scaled by an input, then
quantised and dequantised by a constant step, a power of two that brings the codes into [-1, 1].
With a step of 1 the GEMM's 16-bit output would be a sum of code products, which for FP8 and
K = 4096 has a standard deviation near 7e5, and float16 ends at 65504. A power of two is exact.
TensorRT-RTX also builds FP8 and INT8 GEMMs with a float32 output, from a float32 step; that output
takes twice the memory, which is why it is not asked for.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enginery.builder.errors import BuildError, Problem
from enginery.builder.targets.tensorrt.segment import (
    SegmentInput,
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)

OPSET = 21
IR_VERSION = 10
INT4_BLOCK = 128
# Raise it when the same segment is emitted differently.
ONNX_VERSION = 1

# The step of the constant Q/DQ, by dtype of the codes: the largest code comes to at most 1.
STEP = {"f8e4m3": 2.0**-9, "i8": 2.0**-7}
STATIC_SCHEMES = {"fp8": "f8e4m3", "int8_sq": "i8"}
# dtypes of the engine format -> names in onnx.TensorProto
ONNX_DTYPES = {
    "f32": "FLOAT",
    "f16": "FLOAT16",
    "bf16": "BFLOAT16",
    "i8": "INT8",
    "i4": "INT4",
    "f8e4m3": "FLOAT8E4M3FN",
}


def emit_segment(segment: SegmentType, dtype: str) -> bytes:
    """Returns the segment's ONNX model: the same bytes for the same arguments.

    The graph's inputs and outputs are the segment's, by name and in order, with the shapes that
    `onnx_shape` gives; "tokens" or "logits" is the one dynamic dimension. Residual stream, norms,
    activations, bias and residual additions are float32; a GEMM of 16-bit or quantised operands
    gives `dtype`, as ONNX's MatMul has it.

    Args:
        segment: what to emit.
        dtype: the engine's 16-bit dtype, "bf16" or "f16": that of GEMM outputs.

    Raises:
        BuildError: the onnx package is not installed.
    """
    onnx = import_onnx()
    emitter = _Emitter(onnx, segment, dtype)
    for node in segment.nodes:
        emitter.node(node)
    return emitter.model()


def onnx_shape(operand: SegmentInput) -> tuple[str | int, ...]:
    """The shape of a segment's input or output in its ONNX graph, and so in `segments.json`.

    As stored, but that static scales stand ready to be broadcast over rows: `inverse` is `(1, 1)`
    and the f32 `scale` of an output channel `(1, N)`. The bytes are the same.
    """
    if isinstance(operand, SegmentValue):
        return operand.shape
    if operand.role == "inverse":
        return (1, 1)
    if operand.role == "scale" and operand.dtype == "f32":
        return (1, *operand.shape)
    return operand.shape


def segment_record(segment: SegmentType) -> dict[str, list[dict[str, Any]]]:
    """The entries "inputs" and "outputs" of a segment in `segments.json`."""
    return {
        "inputs": [
            {
                "name": item.name,
                "kind": "tensor" if isinstance(item, SegmentTensor) else "value",
                "dtype": item.dtype,
                "shape": list(onnx_shape(item)),
            }
            for item in segment.inputs
        ],
        "outputs": [
            {"name": item.name, "dtype": item.dtype, "shape": list(item.shape)}
            for item in segment.outputs
        ],
    }


def layer_name(node: SegmentNode) -> str:
    """Name of the linear layer that a `linear` node is: its weight's owner, e.g. "o_proj"."""
    assert node.inputs[1] is not None
    return node.inputs[1].removesuffix(".weight")


def gemm_node_name(node: SegmentNode) -> str:
    """Name of the MatMul that a `linear` node becomes; a plan's text repeats it."""
    return f"{layer_name(node)}/gemm"


def import_onnx() -> ModuleType:
    """The onnx package.

    Raises:
        BuildError: it is not installed; names the extra that brings it.
    """
    try:
        import onnx
    except ImportError:
        problem = Problem("onnx", "is not installed", "pip install 'enginery[rtx]'")
        raise BuildError("tensorrt target", [problem]) from None
    module: ModuleType = onnx
    return module


class _Emitter:
    """Appends ONNX nodes; methods that do return the name of the tensor computed.

    Tensors of the segment keep their names. What lies between is named `<output>/<n>` after the
    segment's node that it belongs to, constants `constant/<n>`.
    """

    def __init__(self, onnx: ModuleType, segment: SegmentType, dtype: str) -> None:
        self.helper = onnx.helper
        self.protos = onnx.TensorProto
        self.segment = segment
        self.dtype = dtype
        self.dtypes = {item.name: item.dtype for item in segment.inputs}
        self.nodes: list[Any] = []
        self.constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self.initializers: list[Any] = []
        self.current = ""

    def node(self, node: SegmentNode) -> None:
        """Emits one node of the segment."""
        self.current = node.output.name
        result, dtype = getattr(self, f"_{node.op}")(node)
        if dtype != node.output.dtype:
            result = self._cast(result, node.output.dtype)
        last = self.nodes[-1]
        assert last.output[0] == result, f"{node.op} ends in another tensor"
        last.output[0] = node.output.name
        self.dtypes[node.output.name] = node.output.dtype

    def model(self) -> bytes:
        """The model of all that was emitted."""
        graph = self.helper.make_graph(
            self.nodes,
            "segment",  # not its name: segments of equal structure are the same model
            [self._info(item) for item in self.segment.inputs],
            [self._info(item) for item in self.segment.outputs],
            self.initializers,
        )
        model = self.helper.make_model(
            graph,
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="enginery",
        )
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    # -- operations of a segment: each returns (tensor, dtype) --

    def _rms_norm(self, node: SegmentNode) -> tuple[str, str]:
        x, weight, inverse = self._operands(node, 3)
        axis = self._constant("int64", np.array([-1], np.int64))
        mean = self._op("ReduceMean", self._op("Mul", x, x), axis, keepdims=1)
        root = self._op("Sqrt", self._op("Add", mean, self._scalar("f32", node.epsilon)))
        normalised = self._op("Mul", self._op("Mul", x, self._op("Reciprocal", root)), weight)
        return self._rounded(node, normalised, inverse)

    def _silu_mul(self, node: SegmentNode) -> tuple[str, str]:
        gate_up, inverse = self._operands(node, 2)
        columns = node.output.columns
        sizes = self._constant("int64", np.array([columns, columns], np.int64))
        gate, up = f"{self.current}/gate", f"{self.current}/up"
        wide = self._wide(gate_up)
        self.nodes.append(self.helper.make_node("Split", [wide, sizes], [gate, up], axis=1))
        product = self._op("Mul", self._op("Mul", gate, self._op("Sigmoid", gate)), up)
        return self._rounded(node, product, inverse)

    def _scale_columns(self, node: SegmentNode) -> tuple[str, str]:
        x, factor, inverse = self._operands(node, 3)
        return self._rounded(node, self._op("Mul", self._wide(x), factor), inverse)

    def _quantize(self, node: SegmentNode) -> tuple[str, str]:
        x, inverse = self._operands(node, 2)
        return self._rounded(node, self._wide(x), inverse)

    def _add(self, node: SegmentNode) -> tuple[str, str]:
        a, b = self._operands(node, 2)
        return self._op("Add", a, b), "f32"

    def _linear(self, node: SegmentNode) -> tuple[str, str]:
        x, weight, scale, bias, residual = self._operands(node, 5)
        dtype = self.dtype
        if node.scheme in STATIC_SCHEMES:
            codes = STATIC_SCHEMES[node.scheme]
            step = self._scalar(dtype, STEP[codes])
            x = self._op("DequantizeLinear", x, step)
            weight = self._op("DequantizeLinear", weight, step)
        elif node.scheme == "int8_wo":
            weight = self._op("DequantizeLinear", weight, scale, axis=0)
        elif node.scheme == "int4_wo":
            weight = self._op("DequantizeLinear", weight, scale, axis=1, block_size=INT4_BLOCK)
        else:
            assert node.scheme == "none", f"scheme {node.scheme!r} has no ONNX form"
            dtype = self.dtypes[weight]
        turned = self._op("Transpose", weight, perm=[1, 0])
        y = self._op("MatMul", x, turned, node_name=gemm_node_name(node))
        if node.scheme in STATIC_SCHEMES:
            grow = self._scalar("f32", STEP[STATIC_SCHEMES[node.scheme]] ** -2)
            y, dtype = self._op("Mul", self._cast(y, "f32"), grow), "f32"
            y = self._op("Mul", y, scale)
        for term in (bias, residual):
            if term:
                y, dtype = (
                    self._op("Add", y if dtype == "f32" else self._cast(y, "f32"), term),
                    "f32",
                )
        return y, dtype

    # -- parts of them --

    def _rounded(self, node: SegmentNode, wide: str, inverse: str) -> tuple[str, str]:
        """`wide` (f32) as it is, or as codes where the node has an inverse."""
        if not inverse:
            return wide, "f32"
        codes = node.output.dtype
        # From float32 straight to codes: a rounding to 16 bits in between would push values over
        # a boundary between two codes.
        shrunk = self._op("Mul", self._op("Mul", wide, inverse), self._scalar("f32", STEP[codes]))
        zero = self._constant(codes, np.array(0, np.uint8))
        step = self._scalar("f32", STEP[codes])
        return self._op("QuantizeLinear", shrunk, step, zero), codes

    def _wide(self, name: str) -> str:
        return name if self.dtypes[name] == "f32" else self._cast(name, "f32")

    def _cast(self, name: str, dtype: str) -> str:
        return self._op("Cast", name, to=self._proto(dtype))

    def _operands(self, node: SegmentNode, count: int) -> list[str]:
        """The node's operands, filled up to `count`; "" is one left out, as in ONNX."""
        names = [name or "" for name in node.inputs]
        return names + [""] * (count - len(names))

    def _op(self, kind: str, *inputs: str, node_name: str = "", **attributes: Any) -> str:
        output = f"{self.current}/{len(self.nodes)}"
        name = node_name or f"{output}/{kind}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def _scalar(self, dtype: str, value: float) -> str:
        array: NDArray[np.generic] = np.array(value, np.float32)
        if dtype == "f16":
            array = array.astype(np.float16)
        elif dtype == "bf16":  # the upper half: exact, for only powers of two come here
            array = (array.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        return self._constant(dtype, array)

    def _constant(self, dtype: str, array: NDArray[np.generic]) -> str:
        """A constant of the array's bytes and shape; equal ones are stored once."""
        key = (dtype, array.tobytes(), array.shape)
        if key not in self.constants:
            name = self.constants[key] = f"constant/{len(self.constants)}"
            self.initializers.append(
                self.helper.make_tensor(name, self._proto(dtype), array.shape, key[1], raw=True)
            )
        return self.constants[key]

    def _info(self, item: SegmentInput) -> Any:
        return self.helper.make_tensor_value_info(
            item.name, self._proto(item.dtype), onnx_shape(item)
        )

    def _proto(self, dtype: str) -> int:
        return int(self.protos.DataType.Value(ONNX_DTYPES.get(dtype, dtype.upper())))
