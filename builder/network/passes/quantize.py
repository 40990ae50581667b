# SPDX-License-Identifier: Apache-2.0
"""Decides in which dtype each weight is stored and each operand of a linear layer computed."""

from __future__ import annotations

from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight
from enginery.quantization import Scheme


def quantize(network: Network, dtype: str, scheme: Scheme) -> Network:
    """Applies a quantisation scheme to all linear layers, the output projection included.

    What feeds a linear layer (norm, attention, activation) computes its output in the dtype that
    the layer takes, so no operation stands between them. A tied embedding is read from the
    output projection's weight and so gets its dtype; one of its own stays in the build dtype.

    Args:
        network: after the fusions.
        dtype: the build dtype, "f32" or "bf16".
        scheme: what to store and compute instead; see `Scheme`.
    """
    operand_dtype = scheme.activation_dtype or dtype
    weight_dtype = scheme.weight_dtype or dtype
    linears = [current for current in network.nodes if current.op == "linear"]
    operands = {current.value(0).name for current in linears}
    linear_weights = {current.weight(1).name for current in linears}

    def stored(weight: Weight) -> Weight:
        if len(weight.shape) == 1:
            return weight  # norms and biases stay in float32
        return weight.stored_as(weight_dtype if weight.name in linear_weights else dtype)

    retyped: dict[str, Value] = {}

    def change(operand: Operand) -> Operand:
        if isinstance(operand, Value):
            return retyped[operand.name]
        return stored(operand) if isinstance(operand, Weight) else None

    rewritten: list[Node] = []
    for current in network.nodes:
        attributes = dict(current.attributes)
        if current.output.name in operands:
            attributes["dtype"] = operand_dtype
        made = node(
            current.op,
            current.output.name,
            *(change(operand) for operand in current.inputs),
            **attributes,
        )
        retyped[current.output.name] = made.output
        rewritten.append(made)
    return network.with_nodes(rewritten)
