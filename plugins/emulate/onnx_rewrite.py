# SPDX-License-Identifier: Apache-2.0
"""Rewrites a segment's ONNX so that onnxruntime's CPU provider rounds where the model says.

That provider has no bfloat16 arithmetic at all, and for float16 it computes in float32 and drops
the roundings between neighbouring operations, whatever the optimisation level. Here each
operation on 16-bit tensors becomes the float32 one followed by an explicit rounding, a pair of
Casts, which it keeps. The rewrite is mechanical: it looks at dtypes and never at what the model
is for.
"""

from __future__ import annotations

from typing import Any

# Operations that move values and compute none: nothing to round after them.
MOVES = ("Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose")


def with_explicit_rounding(content: bytes) -> bytes:
    """Returns the model with 16-bit arithmetic as float32 arithmetic and roundings.

    Inputs and outputs keep their names, dtypes and shapes: 16-bit ones are widened after they
    come in (exact) and rounded before they go out. `MatMul` of a transposed weight becomes
    `Gemm`, which reads the weight as it is stored; products and sums stay the same up to the
    order of summation, which ONNX leaves open.

    Args:
        content: a serialised model whose tensors' dtypes onnx can infer.

    Raises:
        ValueError: the dtype of a tensor cannot be inferred.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)
    graph = model.graph
    dtypes = {
        item.name: item.type.tensor_type.elem_type
        for item in (*graph.input, *graph.value_info, *graph.output)
    } | {item.name: item.data_type for item in graph.initializer}
    rewriter = _Rewriter(onnx, dtypes, {item.name for item in graph.output})
    for item in graph.input:
        rewriter.widen_input(item.name)
    for item in graph.initializer:
        rewriter.widen_initializer(item)
    for node in graph.node:
        rewriter.rewrite(node)
    nodes = _transposed_products(onnx, rewriter.nodes, {item.name for item in graph.output})
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    rewritten: bytes = model.SerializeToString()
    return rewritten


class _Rewriter:
    """Appends to `nodes` what stands for the nodes given one after the other."""

    def __init__(self, onnx: Any, dtypes: dict[str, int], outputs: set[str]) -> None:
        self.onnx = onnx
        self.float = onnx.TensorProto.FLOAT
        self.narrow = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        self.dtypes = dtypes
        self.outputs = outputs
        self.wide: dict[str, str] = {}  # a 16-bit tensor -> its float32 stand-in
        self.nodes: list[Any] = []

    def widen_input(self, name: str) -> None:
        """Casts a 16-bit input."""
        if self.dtypes[name] in self.narrow:
            self._cast(name, self._wide_name(name), self.float)

    def widen_initializer(self, initializer: Any) -> None:
        """Replaces a 16-bit constant by a float32 one of the same values and name."""
        if initializer.data_type in self.narrow:
            values = self.onnx.numpy_helper.to_array(initializer).astype("float32")
            initializer.CopyFrom(self.onnx.numpy_helper.from_array(values, initializer.name))

    def rewrite(self, node: Any) -> None:
        """Appends one node, or what replaces it."""
        unknown = [name for name in node.output if name not in self.dtypes]
        if unknown:
            raise ValueError(f"{node.op_type} {node.name!r}: the dtype of {unknown} is not known")
        made = self.onnx.NodeProto()
        made.CopyFrom(node)
        made.input[:] = [self.wide.get(name, name) for name in node.input]
        narrow = [name for name in node.output if self.dtypes[name] in self.narrow]
        if not narrow:
            self.nodes.append(made)
            return
        if node.op_type == "Cast":
            del made.attribute[:]
            made.attribute.append(self.onnx.helper.make_attribute("to", self.float))
        # y -> y/f32, then y/f32 -> y (16 bits) -> y/wide; a move's y/f32 is rounded already.
        made.output[:] = [f"{name}/f32" if name in narrow else name for name in node.output]
        self.nodes.append(made)
        for name in narrow:
            if node.op_type in MOVES and name not in self.outputs:
                self.wide[name] = f"{name}/f32"
                continue
            self._cast(f"{name}/f32", name, self.dtypes[name])
            self._cast(name, self._wide_name(name), self.float)

    def _wide_name(self, name: str) -> str:
        self.wide[name] = f"{name}/wide"
        return self.wide[name]

    def _cast(self, source: str, target: str, dtype: int) -> None:
        self.nodes.append(self.onnx.helper.make_node("Cast", [source], [target], to=dtype))


def _transposed_products(onnx: Any, nodes: list[Any], outputs: set[str]) -> list[Any]:
    """`MatMul(x, Transpose(w))` as `Gemm(x, w)` where nothing else reads the transpose."""
    uses: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    turned = {
        node.output[0]: node
        for node in nodes
        if node.op_type == "Transpose"
        and [list(item.ints) for item in node.attribute] == [[1, 0]]
        and uses.get(node.output[0]) == 1
        and node.output[0] not in outputs
    }
    result: list[Any] = []
    dropped: set[str] = set()
    for node in nodes:
        weight = turned.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None:
            dropped.add(weight.output[0])
            operands = [node.input[0], weight.input[0]]
            node = onnx.helper.make_node("Gemm", operands, list(node.output), node.name, transB=1)
        result.append(node)
    return [node for node in result if node.output[0] not in dropped]
