# SPDX-License-Identifier: Apache-2.0
"""Rows that want no logits leave as soon as no other row needs them."""

from __future__ import annotations

from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node

# Operations that compute a row of their output from that row of their inputs alone.
ROW_WISE = frozenset(
    (
        "add",
        "all_reduce",
        "group_sums",
        "linear",
        "paged_attention",
        "rms_norm",
        "scale_columns",
        "silu_mul",
    )
)
# But for this input, of which they need all rows.
WHOLE_INPUT = {"paged_attention": 1}


def gather_early(network: Network) -> Network:
    """Moves `gather_rows` ahead of all that works row by row.

    Of the last layer other tokens need keys and values alone. All else, most of a layer, is so
    computed for one row of a prompt, and for none of a chunk that does not end it.

    Args:
        network: after the fusions and quantisation, gathered once. The queries of its last layer
            leave early where they are computed apart; see `split_queries`.
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
            inputs = [
                operand if index == WHOLE_INPUT.get(current.op) else narrowed(operand)
                for index, operand in enumerate(current.inputs)
            ]
            narrow[name] = keep(node(current.op, name, *inputs, **current.attributes))
        else:
            keep(current)
    return network.with_nodes(rewritten)


def _only_gathered(nodes: tuple[Node, ...]) -> set[str]:
    """Names of values of which no row is read but those that the last of `nodes` gathers."""
    readers: dict[str, set[str]] = {current.output.name: set() for current in nodes}
    whole: set[str] = set()  # values of which all rows are read
    for current in nodes:
        for index, operand in enumerate(current.inputs):
            if isinstance(operand, Value):
                readers[operand.name].add(current.output.name)
                if index == WHOLE_INPUT.get(current.op):
                    whole.add(operand.name)
    wanted = {nodes[-1].output.name}
    for current in reversed(nodes[:-1]):
        name = current.output.name
        if current.op in ROW_WISE and name not in whole and readers[name] <= wanted:
            wanted.add(name)
    return wanted
