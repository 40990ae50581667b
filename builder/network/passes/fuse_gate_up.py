# SPDX-License-Identifier: Apache-2.0
"""gate_proj and up_proj become one linear layer, and the activation works on its packed output."""

from __future__ import annotations

from enginery.builder.network.network import Network, Node
from enginery.builder.network.ops import node
from enginery.builder.network.passes.stacking import stack_linears


def fuse_gate_up(network: Network) -> Network:
    """Rewrites `swiglu(gate, up)` into one `linear` and `silu_mul(gate_up)`."""
    producers = network.producers()
    fused: set[str] = set()
    rewritten: list[Node] = []
    for current in network.nodes:
        if current.op != "swiglu":
            rewritten.append(current)
            continue
        linears = [producers[current.value(index).name] for index in range(2)]
        fused |= {linear.output.name for linear in linears}
        gate_up = stack_linears("gate_up_proj", linears)
        rewritten += [gate_up, node("silu_mul", current.output.name, gate_up.output)]
    return network.with_nodes(n for n in rewritten if n.output.name not in fused)
