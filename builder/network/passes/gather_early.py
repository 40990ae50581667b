# SPDX-License-Identifier: Apache-2.0
"""Rows that want no logits leave as soon as no other row needs them."""

from __future__ import annotations

from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node

# Operations that compute a row of their output from that row of their inputs alone.
ROW_WISE = frozenset(
    ("add", "all_reduce", "group_sums", "linear", "rms_norm", "scale_columns", "silu_mul")
)


def gather_early(network: Network) -> Network:
    """Moves `gather_rows` ahead of all that works row by row.

    Of the last layer other tokens need keys and values alone. What follows its attention, most of
    a layer, is so computed for one row of a prompt, and for none of a chunk that does not end it.

    Args:
        network: after the fusions and quantisation, gathered once.
    """
    nodes = network.nodes
    (end,) = (i for i, current in enumerate(nodes) if current.op == "gather_rows")
    last = nodes[end]
    wanted = _only_gathered(nodes[: end + 1])
    if last.value(0).name not in wanted:
        return network
    rewritten: list[Node] = []
    narrow: dict[str, Value] = {}  # by the name of what has more rows, or had

    def keep(current: Node) -> Value:
        rewritten.append(current)
        return current.output

    def narrowed(operand: Operand) -> Operand:
        if not isinstance(operand, Value):
            return operand
        if operand.name not in narrow:
            gather = node("gather_rows", f"{operand.name}.last_rows", operand)
            narrow[operand.name] = keep(gather)
        return narrow[operand.name]

    for i, current in enumerate(nodes):
        name = current.output.name
        if i == end:
            narrow[name] = narrow[last.value(0).name]
        elif i > end or name in wanted:
            inputs = [narrowed(operand) for operand in current.inputs]
            narrow[name] = keep(node(current.op, name, *inputs, **current.attributes))
        else:
            keep(current)
    return network.with_nodes(rewritten)


def _only_gathered(nodes: tuple[Node, ...]) -> set[str]:
    """Names of values of which no row is read but those that the last of `nodes` gathers."""
    readers: dict[str, list[Node]] = {current.output.name: [] for current in nodes}
    for current in nodes:
        for operand in current.inputs:
            if isinstance(operand, Value):
                readers[operand.name].append(current)
    wanted: set[str] = set()
    for current in reversed(nodes[:-1]):
        name = current.output.name
        if current.op in ROW_WISE and all(
            reader is nodes[-1] or reader.output.name in wanted for reader in readers[name]
        ):
            wanted.add(name)
    return wanted
