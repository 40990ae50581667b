# SPDX-License-Identifier: Apache-2.0
"""Makes one segment from a run of network nodes: local names, explicit quantisation, operands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from enginery.builder.network.network import Node, Operand, Value
from enginery.builder.network.weight import Weight
from enginery.builder.targets.tensorrt.constant import CODE_DTYPES, Constant, ConstantMaker
from enginery.builder.targets.tensorrt.segment import (
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)


class SegmentBuilder:
    """Collects a segment's nodes in order, and the operands of the step that runs it.

    Args:
        constants: says how weights are stored.
        roles: what values between steps are, by name; they become the names of the segment's
            inputs and outputs, an output that is also an input (the residual stream) with "_out".
        values: the values computed so far, as they are between steps, by name.
    """

    def __init__(
        self, constants: ConstantMaker, roles: Mapping[str, str], values: Mapping[str, Value]
    ) -> None:
        self.constants = constants
        self.roles = roles
        self.values = values
        self._local: dict[str, SegmentValue] = {}  # by network name
        self._inputs: list[tuple[SegmentValue, Value]] = []
        self._tensors: list[tuple[SegmentTensor, Constant]] = []
        self._outputs: list[tuple[SegmentValue, Value]] = []
        self._nodes: list[SegmentNode] = []
        # The linear layer that reads a value which is made in the dtype of its codes.
        self._waiting: dict[str, int] = {}

    def add(self, node: Node, dtype: str, *, is_output: bool) -> None:
        """Adds a node of the network.

        Args:
            node: a rms_norm, linear, silu_mul, scale_columns or add.
            dtype: of its output in the segment.
            is_output: whether a step reads it.
        """
        made = getattr(self, f"_{node.op}")(node)
        output = SegmentValue(
            self._output_name(node, is_output), dtype, node.output.rows, node.output.columns
        )
        self._nodes.append(dataclasses.replace(made, output=output))
        self._local[node.output.name] = output
        if dtype in CODE_DTYPES:
            self._waiting[output.name] = len(self._nodes) - 1
        if is_output:
            self._outputs.append((output, dataclasses.replace(node.output, dtype=dtype)))

    def finish(
        self,
    ) -> tuple[SegmentType, tuple[Value | Constant, ...], tuple[Value, ...]]:
        """Returns the type without a name, and the operands and outputs of its step."""
        assert not self._waiting, "codes that no linear layer reads"
        inputs = [value for value, _ in self._inputs] + [tensor for tensor, _ in self._tensors]
        operands: list[Value | Constant] = [value for _, value in self._inputs]
        operands += [constant for _, constant in self._tensors]
        names = [item.name for item in (*inputs, *(node.output for node in self._nodes))]
        assert len(set(names)) == len(names), names
        segment = SegmentType(
            "",
            tuple(inputs),
            tuple(output for output, _ in self._outputs),
            tuple(self._nodes),
        )
        return segment, tuple(operands), tuple(value for _, value in self._outputs)

    def _rms_norm(self, node: Node) -> SegmentNode:
        weight = node.weight(1)
        norm = self._tensor(self.constants.data(weight), "norm", weight.name.rsplit(".", 2)[-2])
        epsilon = float(node.attributes["epsilon"])
        return _node("rms_norm", self._value(node.inputs[0]), norm, None, epsilon=epsilon)

    def _silu_mul(self, node: Node) -> SegmentNode:
        return _node("silu_mul", self._value(node.inputs[0]), None)

    def _scale_columns(self, node: Node) -> SegmentNode:
        weight = node.weight(1)
        factor = self._tensor(self.constants.data(weight), "factor", weight.name.rsplit(".", 2)[-2])
        return _node("scale_columns", self._value(node.inputs[0]), factor, None)

    def _add(self, node: Node) -> SegmentNode:
        return _node("add", self._value(node.inputs[0]), self._value(node.inputs[1]))

    def _linear(self, node: Node) -> SegmentNode:
        weight, bias = node.weight(1), node.inputs[2]
        is_head = node.output.name.partition(".")[0] == "logits"
        owner = "lm_head" if is_head else weight.name.rsplit(".", 2)[-2]
        x = self._operand_of_linear(node.value(0), weight, owner)
        scale = self.constants.scale(weight)
        operands = (
            x,
            self._tensor(self.constants.data(weight), "weight", owner),
            None if scale is None else self._tensor(scale, "scale", owner),
            self._tensor(self.constants.data(bias), "bias", owner)
            if isinstance(bias, Weight)
            else None,
            None if node.inputs[3] is None else self._value(node.inputs[3]),
        )
        return _node("linear", *operands, scheme=self.constants.linear_scheme(weight))

    def _operand_of_linear(self, value: Value, weight: Weight, owner: str) -> str:
        """The local name of x; tells what makes it the inverse to quantise with."""
        constant = self.constants.inverse(weight)
        name = self._value(value)
        if constant is None:
            return name
        inverse = self._tensor(constant, "inverse", owner)
        if name in self._waiting:
            index = self._waiting.pop(name)
            maker = self._nodes[index]
            inputs = (*maker.inputs[:-1], inverse)
            self._nodes[index] = dataclasses.replace(maker, inputs=inputs)
            return name
        # From another step, in act.
        output = SegmentValue(f"{name}_codes", weight.dtype, value.rows, value.columns)
        self._nodes.append(SegmentNode("quantize", (name, inverse), output))
        return output.name

    def _value(self, operand: Operand) -> str:
        assert isinstance(operand, Value)
        if operand.name not in self._local:
            value = self.values[operand.name]
            local = SegmentValue(self.roles[value.name], value.dtype, value.rows, value.columns)
            self._inputs.append((local, value))
            self._local[operand.name] = local
        return self._local[operand.name].name

    def _tensor(self, constant: Constant, role: str, owner: str) -> str:
        tensor = SegmentTensor(f"{owner}.{role}", constant.dtype, constant.shape, role, owner)
        self._tensors.append((tensor, constant))
        return tensor.name

    def _output_name(self, node: Node, is_output: bool) -> str:
        if not is_output:
            return node.output.name.rsplit(".", 1)[-1]
        role = self.roles[node.output.name]
        return f"{role}_out" if any(value.name == role for value, _ in self._inputs) else role


def _node(op: str, *inputs: str | None, epsilon: float = 0.0, scheme: str = "") -> SegmentNode:
    """A node that lacks its output."""
    return SegmentNode(op, inputs, SegmentValue("", "", "", 0), epsilon, scheme)
