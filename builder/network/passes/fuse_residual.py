# SPDX-License-Identifier: Apache-2.0
"""A linear layer adds its output to the residual stream itself."""

from __future__ import annotations

import dataclasses

from enginery.builder.network.network import Network, Node


def fuse_residual(network: Network) -> Network:
    """Rewrites `add(residual, linear(x))` into a `linear` that accumulates into the residual.

    The GEMM writes its result once, where it is wanted, instead of to memory that is read again.
    """
    producers = network.producers()
    uses = network.num_uses()
    fused: set[str] = set()
    rewritten: list[Node] = []
    for current in network.nodes:
        if current.op == "add":
            residual = current.value(0)
            linear = producers[current.value(1).name]
            if linear.op == "linear" and linear.inputs[3] is None and uses[linear.output.name] == 1:
                fused.add(linear.output.name)
                current = dataclasses.replace(
                    linear, inputs=(*linear.inputs[:3], residual), output=current.output
                )
        rewritten.append(current)
    return network.with_nodes(n for n in rewritten if n.output.name not in fused)
