# SPDX-License-Identifier: Apache-2.0
"""The queries of the last layer get a linear layer of their own."""

from __future__ import annotations

import dataclasses

from enginery.builder.network.network import Network, Node, Operand
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight


def split_queries(network: Network) -> Network:
    """Takes the last layer's `qkv_proj` apart into `kv_proj` and `q_proj`.

    All tokens need its keys and values, but only rows that want logits its queries: once these are
    computed apart, `gather_early` leaves the others out. Every result keeps its bits, for channels
    of a product do not depend on each other.

    Args:
        network: after the fusions, quantisation and sharding.
    """
    nodes = network.nodes
    producers = network.producers()
    attention = [current for current in nodes if current.op == "paged_attention"][-1]
    append = producers[attention.value(1).name]
    chain = [producers[append.value(0).name]]  # each adds to what the one before it gave
    while chain[0].inputs[3] is not None:
        chain.insert(0, producers[chain[0].value(3).name])
    q_columns = attention.output.columns
    kv_proj = _rows_of(chain, "kv_proj", q_columns, append.output.columns)
    q_proj = _rows_of(chain, "q_proj", 0, q_columns)

    inputs = (kv_proj[-1].output, *append.inputs[1:])
    name = append.output.name.replace("qkv", "kv")
    kv_append = node("kv_append", name, *inputs, **append.attributes)
    inputs = (q_proj[-1].output, kv_append.output, attention.inputs[2])
    attended = node("paged_attention", attention.output.name, *inputs, **attention.attributes)

    replaced = {
        **{linear.output.name: [made] for linear, made in zip(chain, kv_proj, strict=True)},
        append.output.name: [kv_append],
        attention.output.name: [*q_proj, attended],
    }
    return network.with_nodes(
        made for current in nodes for made in replaced.get(current.output.name, [current])
    )


def _rows_of(chain: list[Node], name: str, begin: int, end: int) -> list[Node]:
    """The linear layers `chain` with the output channels [begin, end) of each alone."""

    def rows(operand: Operand) -> Weight | None:
        if not isinstance(operand, Weight):
            return None
        renamed = operand.name.replace("qkv_proj", name)
        return dataclasses.replace(operand.rows(begin, end), name=renamed)

    made: list[Node] = []
    for linear in chain:
        x, weight, bias, _ = linear.inputs
        residual = made[-1].output if made else None
        output = linear.output.name.replace("qkv_proj", name)
        made.append(node("linear", output, x, rows(weight), rows(bias), residual))
    return made
