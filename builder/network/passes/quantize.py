# SPDX-License-Identifier: Apache-2.0
"""Decides in which dtype each weight is stored and each operand of a linear layer computed."""

from __future__ import annotations

from collections.abc import Collection

from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Blocks, Weight
from enginery.quantization import INT4_BLOCK, Scheme

LOGITS = "logits"


def quantize(
    network: Network,
    dtype: str,
    scheme: Scheme,
    excluded: Collection[str] = (),
    block_size: int = INT4_BLOCK,
) -> Network:
    """Applies a quantisation scheme to the linear layers, the output projection where it says so.

    What feeds a linear layer (norm, attention, activation) computes its output in the dtype that
    the layer takes, so no operation stands between them. A tied embedding is read from the
    output projection's weight and so gets its dtype.

    Args:
        network: after the fusions.
        dtype: the build dtype, "f32", "bf16" or "f16".
        scheme: what to store and compute instead; see `Scheme`.
        excluded: checkpoint tensors of the layers that stay in the build dtype; of a layer that
            was stacked all or none.
        block_size: inputs that share a scale of INT4 weights.
    """
    # By name: what linear layers take as operands and as weights.
    operand_dtypes: dict[str, str] = {}
    weight_dtypes: dict[str, str] = {}
    for current in network.nodes:
        if current.op == "linear":
            operand_dtype, weight_dtype = scheme.activation_dtype, scheme.weight_dtype
            if current.output.name == LOGITS:
                weight_dtype = scheme.lm_head_dtype or weight_dtype
                if not scheme.quantizes_lm_head:
                    operand_dtype = weight_dtype = None
            if current.weight(1).parts[0].tensor in excluded:
                operand_dtype = weight_dtype = None
            operand_dtypes[current.value(0).name] = operand_dtype or dtype
            weight_dtypes[current.weight(1).name] = weight_dtype or dtype

    def stored(weight: Weight) -> Weight:
        if len(weight.shape) == 1:
            return weight  # norms and biases stay in float32
        stored_dtype = weight_dtypes.get(weight.name, scheme.embedding_dtype or dtype)
        blocks = Blocks(block_size, scheme.product_dtype) if stored_dtype == "i4" else None
        return weight.stored_as(stored_dtype, blocks)

    retyped: dict[str, Value] = {}

    def change(operand: Operand) -> Operand:
        if isinstance(operand, Value):
            return retyped[operand.name]
        return stored(operand) if isinstance(operand, Weight) else None

    rewritten: list[Node] = []
    for current in network.nodes:
        attributes = dict(current.attributes)
        if current.output.name in operand_dtypes:
            attributes["dtype"] = operand_dtypes[current.output.name]
        made = node(
            current.op,
            current.output.name,
            *(change(operand) for operand in current.inputs),
            **attributes,
        )
        retyped[current.output.name] = made.output
        rewritten.append(made)
    return network.with_nodes(rewritten)
