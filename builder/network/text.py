# SPDX-License-Identifier: Apache-2.0
"""The stable text form of a network, for golden files and for reading."""

from __future__ import annotations

from enginery.builder.network.network import Attribute, Network, Node, Operand, Value
from enginery.builder.network.weight import Weight, WeightPart


def to_text(network: Network) -> str:
    """Returns one line per node, then one line per weight with the tensors that it is made of."""
    config, mapping = network.config, network.mapping
    lines = [
        f"network {config.family.architecture} rank {mapping.tp_rank} of {mapping.tp_size}",
        *(_node_text(node) for node in network.nodes),
    ]
    weights = {
        operand.name: operand
        for node in network.nodes
        for operand in node.inputs
        if isinstance(operand, Weight)
    }
    lines += [_weight_text(weight) for weight in weights.values()]
    return "\n".join(lines) + "\n"


def _node_text(node: Node) -> str:
    operands = [_operand_text(operand) for operand in node.inputs]
    operands += [
        f"{name}={_attribute_text(value)}" for name, value in sorted(node.attributes.items())
    ]
    return f"  {_type_text(node.output)} = {node.op}({', '.join(operands)})"


def _type_text(value: Value) -> str:
    return f"%{value.name}: {value.dtype}[{value.rows}, {value.columns}]"


def _operand_text(operand: Operand) -> str:
    if operand is None:
        return "-"
    return f"{'%' if isinstance(operand, Value) else '@'}{operand.name}"


def _attribute_text(value: Attribute) -> str:
    return repr(value)


def _weight_text(weight: Weight) -> str:
    parts = " + ".join(_part_text(part) for part in weight.parts)
    shape = ", ".join(str(size) for size in weight.shape)
    return f"  @{weight.name}: {weight.dtype}[{shape}] = {parts}"


def _part_text(part: WeightPart) -> str:
    intervals = [part.rows] if part.columns is None else [part.rows, part.columns]
    return part.tensor + "[" + ", ".join(f"{begin}:{end}" for begin, end in intervals) + "]"
