# SPDX-License-Identifier: Apache-2.0
"""Applies the scales by which calibration smoothed what linear layers read.

SmoothQuant (arXiv:2211.10438) and AWQ (arXiv:2306.00978) divide a layer's input by a factor of each
channel and multiply its weight by the same. The weight is stored so; ModelOpt leaves the input's
factor beside it as `pre_quant_scale`. It goes where it costs nothing: into the weight of the norm
that the layer reads, or into the rows of up_proj where it reads silu(gate) * up. Heads that share
keys and values leave no such place before o_proj: there it is an operation of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from enginery.builder.checkpoint.checkpoint import pre_quant_scale_name
from enginery.builder.network.network import Network, Node, Operand
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight, whole


def smooth(network: Network, smoothed: Collection[str]) -> Network:
    """Multiplies what layers read by their factors.

    Args:
        network: plain, before the fusions.
        smoothed: weights of the layers that have factors; of those that read one value all have
            the same, or none.
    """
    producers = network.producers()
    # By the name of a node's output: the tensor that its rows or columns are multiplied by.
    of_rows: dict[str, str] = {}
    of_columns: dict[str, str] = {}
    for current in network.nodes:
        if current.op == "linear" and current.weight(1).name in smoothed:
            factor = pre_quant_scale_name(current.weight(1).name)
            producer = producers[current.value(0).name]
            if producer.op == "swiglu":
                of_rows[producer.value(1).name] = factor
            elif producer.op == "rms_norm":
                of_rows[producer.output.name] = factor
            else:
                of_columns[producer.output.name] = factor

    rewritten: list[Node] = []
    scaled: dict[str, Node] = {}

    def change(operand: Operand, factor: str | None) -> Operand:
        if isinstance(operand, Weight):
            return operand if factor is None else operand.times(factor)
        if operand is not None and operand.name in scaled:
            return scaled[operand.name].output
        return operand

    for current in network.nodes:
        rows_factor = of_rows.get(current.output.name)
        inputs = tuple(change(operand, rows_factor) for operand in current.inputs)
        rewritten.append(dataclasses.replace(current, inputs=inputs))
        name = current.output.name
        if name in of_columns:
            weight = whole(of_columns[name], (current.output.columns,))
            scaled[name] = node("scale_columns", f"{name}.smoothed", current.output, weight)
            rewritten.append(scaled[name])
    return network.with_nodes(rewritten)
