# SPDX-License-Identifier: Apache-2.0
"""Stacks linear layers that read the same value; shared by the passes that fuse projections."""

from __future__ import annotations

from enginery.builder.network.network import Node
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight, stack


def stack_linears(name: str, linears: list[Node]) -> Node:
    """Returns one linear layer whose output rows are the outputs of `linears` side by side.

    Args:
        name: the last component of its name, e.g. "qkv_proj"; the others are those of the first
            layer stacked.
        linears: linear layers with the same input, without residual, all with a bias or none.
    """
    first = linears[0]
    assert all(n.op == "linear" and n.inputs[0] == first.inputs[0] for n in linears)
    assert all(n.inputs[3] is None for n in linears)
    assert len({n.inputs[2] is None for n in linears}) == 1
    weights = [linear.weight(1) for linear in linears]
    biases = [linear.inputs[2] for linear in linears if isinstance(linear.inputs[2], Weight)]
    prefix = weights[0].name.rsplit(".", 2)[0]
    return node(
        "linear",
        f"{first.output.name.rpartition('.')[0]}.{name}",
        first.inputs[0],
        stack(f"{prefix}.{name}.weight", weights),
        stack(f"{prefix}.{name}.bias", biases) if biases else None,
        None,
    )
