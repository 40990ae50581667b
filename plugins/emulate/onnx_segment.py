# SPDX-License-Identifier: Apache-2.0
"""Runs a segment's ONNX on the CPU in onnxruntime, over memory that the caller owns.

No operand is copied: onnxruntime reads weights where the engine file is mapped, in every dtype,
and writes results where the next step reads them. It is handed addresses, for its numpy interface
takes neither packed INT4 nor bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from enginery.plugins.emulate.onnx_rewrite import with_explicit_rounding

# Bits of an element, by name in onnx.TensorProto.
BITS = {"FLOAT": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT8": 8, "FLOAT8E4M3FN": 8, "INT4": 4}
ERRORS_ONLY = 3


@dataclass(frozen=True)
class OnnxOperand:
    """An input or output of a segment's graph.

    Attributes:
        name: as in the graph.
        dtype: its number in onnx.TensorProto.
        bits: of one element.
        shape: the dynamic dimension, the number of rows, is None.
    """

    name: str
    dtype: int
    bits: int
    shape: tuple[int | None, ...]

    def dimensions(self, rows: int) -> list[int]:
        """The shape for a number of rows."""
        return [rows if size is None else size for size in self.shape]

    def num_bytes(self, rows: int) -> int:
        """Bytes for a number of rows, packed."""
        return -(-math.prod(self.dimensions(rows)) * self.bits // 8)


class OnnxSegment:
    """A segment, loaded once and run on any operands.

    16-bit arithmetic is float32 arithmetic rounded after every operation (`onnx_rewrite`), with
    weights widened on the way in each run: a pass over them, and no memory that stays.

    Attributes:
        inputs, outputs: of the graph, in order.

    Args:
        content: the ONNX model's bytes.
        num_threads: of onnxruntime.

    Raises:
        ImportError: onnx or onnxruntime is not installed; names the extra.
        ValueError: the bytes are no model that onnxruntime runs.
    """

    def __init__(self, content: bytes, num_threads: int = 1) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"emulation needs {error.name}: pip install 'enginery[emulate]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        try:
            loaded = onnx.load_from_string(content)
            _check_self_contained(onnx, loaded)
            graph = loaded.graph
            self.inputs = tuple(_operand(onnx, item) for item in graph.input)
            self.outputs = tuple(_operand(onnx, item) for item in graph.output)
            self._session = onnxruntime.InferenceSession(
                with_explicit_rounding(content), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # each library has errors of its own
            raise ValueError(f"not a segment that onnxruntime runs: {error}") from error

    def run(self, rows: int, operands: Mapping[str, NDArray[Any]]) -> None:
        """Computes the outputs into their memory.

        Args:
            rows: number of rows of every value, at least 1.
            operands: memory of every input and output by name: contiguous, of any dtype and
                shape, exactly as many bytes as the operand has for `rows` rows. An output must
                be writable and must not overlap an input.

        Raises:
            ValueError: an operand is missing or does not fit.
        """
        binding = self._session.io_binding()
        for operand in self.inputs:
            array = _memory(operand, rows, operands)
            binding.bind_input(
                operand.name, "cpu", 0, operand.dtype, operand.dimensions(rows), array.ctypes.data
            )
        for operand in self.outputs:
            array = _memory(operand, rows, operands)
            if not array.flags.writeable:
                raise ValueError(f"{operand.name}: an output's memory must be writable")
            binding.bind_output(
                operand.name, "cpu", 0, operand.dtype, operand.dimensions(rows), array.ctypes.data
            )
        self._session.run_with_iobinding(binding)


def _memory(operand: OnnxOperand, rows: int, operands: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    array = operands.get(operand.name)
    if array is None:
        raise ValueError(f"{operand.name}: operand is missing")
    wanted = operand.num_bytes(rows)
    if array.nbytes != wanted or not array.flags.c_contiguous:
        raise ValueError(
            f"{operand.name}: {array.nbytes} bytes do not hold {operand.dimensions(rows)}, "
            f"which takes {wanted} contiguous bytes"
        )
    return array


def _check_self_contained(onnx: Any, model: Any) -> None:
    """Checks that no constant lies in another file, which the model may name by any path.

    What segments have no use for, and where constants could hide as well, is refused.

    Raises:
        ValueError: one does, or the model has functions, graphs in nodes or sparse constants.
    """
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    constants = list(model.graph.initializer)
    for attribute in attributes:
        constants += [attribute.t, *attribute.tensors]
        if attribute.HasField("g") or len(attribute.graphs):
            raise ValueError(f"{attribute.name}: an attribute is a graph")
    sparse = [*model.graph.sparse_initializer, *(a for a in attributes if a.sparse_tensors)]
    if model.functions or sparse or any(a.HasField("sparse_tensor") for a in attributes):
        raise ValueError("the model has functions or sparse constants")
    for item in constants:
        if item.data_location == onnx.TensorProto.EXTERNAL:
            raise ValueError(f"{item.name}: a constant lies in another file")


def _operand(onnx: Any, item: Any) -> OnnxOperand:
    kind = item.type.tensor_type
    name = onnx.TensorProto.DataType.Name(kind.elem_type)
    if name not in BITS:
        raise ValueError(f"{item.name}: dtype {name} is not one of {', '.join(BITS)}")
    sizes: Sequence[Any] = kind.shape.dim
    shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in sizes)
    if any(size is not None and size < 1 for size in shape):
        raise ValueError(f"{item.name}: shape {shape} has a dimension below 1")
    return OnnxOperand(item.name, kind.elem_type, BITS[name], shape)
