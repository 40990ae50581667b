# SPDX-License-Identifier: Apache-2.0
"""Takes one rank's part of a network.

Column-parallel layers (query, key, value, gate, up) hold a share of the output channels, each of
their projections cut on its own; row-parallel layers (output, down) hold the matching share of the
input channels, and their sums over ranks are the result. Two all-reduces per layer, as in
Megatron-LM (arXiv:1909.08053). The output projection is cut along the vocabulary where that
divides, and its logits are gathered.
"""

from __future__ import annotations

from collections.abc import Iterator

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.errors import OptionError, Problems
from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight, stack
from enginery.builder.sharding.mapping import Mapping


def check_shardable(config: ModelConfig, tp_size: int) -> None:
    """Raises `OptionError` where `tp_size` ranks cannot share the model equally."""
    problems = Problems(config.family.architecture, OptionError)
    for name, size in (
        ("num_attention_heads", config.num_heads),
        ("num_key_value_heads", config.num_kv_heads),
        ("intermediate_size", config.intermediate_size),
    ):
        if size % tp_size:
            problems.add("tp_size", f"{tp_size} does not divide {name} {size}")
    if problems.found:
        fitting = [n for n in range(1, tp_size) if _is_shardable(config, n)]
        last = problems.found.pop()
        problems.add(last.field, last.message, f"the model takes {fitting}")
    problems.raise_if_any()


def _is_shardable(config: ModelConfig, tp_size: int) -> bool:
    sizes = (config.num_heads, config.num_kv_heads, config.intermediate_size)
    return all(size % tp_size == 0 for size in sizes)


def shard(network: Network, mapping: Mapping) -> Network:
    """Returns the part of `network` that the rank at `mapping` executes.

    Args:
        network: of one rank, after all passes.
        mapping: a rank whose `tp_size` the model was checked for.
    """
    if mapping.tp_size == 1:
        return network
    sharder = _Sharder(network, mapping)
    nodes = [made for current in network.nodes for made in sharder.rewrite(current)]
    return Network(network.config, tuple(nodes), mapping)


def column_share(weight: Weight, mapping: Mapping) -> Weight:
    """A rank's share of the output channels: of each stacked part, so that heads stay whole."""
    shares = []
    position = 0
    for part in weight.parts:
        begin, end = mapping.interval(part.num_rows)
        shares.append(weight.rows(position + begin, position + end))
        position += part.num_rows
    return stack(weight.name, shares)


def row_share(weight: Weight, mapping: Mapping) -> Weight:
    """A rank's share of the input channels."""
    return weight.columns(*mapping.interval(weight.shape[1]))


class _Sharder:
    def __init__(self, network: Network, mapping: Mapping) -> None:
        self.mapping = mapping
        self._values: dict[str, Value] = {}
        self._producers = network.producers()
        self._readers: dict[str, str] = {}
        for current in network.nodes:
            for operand in current.inputs:
                if isinstance(operand, Value):
                    self._readers[operand.name] = current.op

    def rewrite(self, current: Node) -> Iterator[Node]:
        """Yields the nodes that stand for one node of the whole network."""
        name = current.output.name
        made = None
        for made in self._nodes(current):
            yield made
        assert made is not None
        self._values[name] = made.output

    def _nodes(self, current: Node) -> Iterator[Node]:
        inputs = [self._local(operand) for operand in current.inputs]
        name, attributes = current.output.name, dict(current.attributes)
        if current.op == "linear":
            if self._readers.get(name) in ("kv_append", "silu_mul"):
                weight, bias = (self._column_share(operand) for operand in inputs[1:3])
                yield node("linear", name, inputs[0], weight, bias, inputs[3])
                return
            if self._is_share(current.value(0)):
                yield from self._row_parallel(name, current, inputs)
                return
            if name == "logits" and current.output.columns % self.mapping.tp_size == 0:
                yield from self._vocabulary_parallel(current.weight(1), inputs)
                return
        if current.op == "scale_columns" and self._is_share(current.value(0)):
            inputs[1] = self._column_share(inputs[1])
        for heads in ("num_heads", "num_kv_heads"):
            if heads in attributes:
                attributes[heads] = int(attributes[heads]) // self.mapping.tp_size
        yield node(current.op, name, *inputs, **attributes)

    def _is_share(self, value: Value) -> bool:
        """Whether a rank has a share of the value's columns, which a row-parallel layer reads."""
        producer = self._producers[value.name]
        if producer.op == "scale_columns":
            return self._is_share(producer.value(0))
        return producer.op in ("paged_attention", "silu_mul")

    def _row_parallel(self, name: str, current: Node, inputs: list[Operand]) -> Iterator[Node]:
        # The bias is added once: by rank 0, before the sum.
        bias = inputs[2] if self.mapping.tp_rank == 0 else None
        weight = row_share(current.weight(1), self.mapping)
        partial = node("linear", f"{name}.partial", inputs[0], weight, bias, None)
        yield partial
        summed = node("all_reduce", f"{name}.sum", partial.output)
        yield summed
        yield node("add", name, inputs[3], summed.output)

    def _vocabulary_parallel(self, weight: Weight, inputs: list[Operand]) -> Iterator[Node]:
        share = weight.rows(*self.mapping.interval(weight.shape[0]))
        # A tied embedding is still needed whole, under its own name.
        renamed = Weight("lm_head.weight", share.parts, share.dtype)
        partial = node("linear", "logits.partial", inputs[0], renamed, None, None)
        yield partial
        yield node("all_gather", "logits", partial.output, tp_size=self.mapping.tp_size)

    def _local(self, operand: Operand) -> Operand:
        return self._values[operand.name] if isinstance(operand, Value) else operand

    def _column_share(self, operand: Operand) -> Operand:
        return column_share(operand, self.mapping) if isinstance(operand, Weight) else None
