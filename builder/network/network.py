# SPDX-License-Identifier: Apache-2.0
"""Values, nodes and the network that orders them. All are immutable: passes build new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.network.weight import Weight
from enginery.builder.sharding.mapping import Mapping as RankMapping

Attribute = int | float | str


@dataclass(frozen=True)
class Value:
    """What a node computes: a packed matrix `[rows, columns]`.

    Attributes:
        name: unique in the network.
        rows: "tokens" (the packed tokens of a step) or "logits" (the rows that want logits).
        columns: width.
        dtype: "f32", "bf16", "f16", or codes: "i8" (each row, or the whole value, with a scale)
            or "f8e4m3" (the whole value with a scale).
    """

    name: str
    rows: str
    columns: int
    dtype: str = "f32"


Operand = Value | Weight | None


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: a name in `ops.RULES`.
        inputs: values computed before it, weights, or None for an optional operand left out.
        output: what it computes.
        attributes: constants of the operation.
    """

    op: str
    inputs: tuple[Operand, ...]
    output: Value
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def value(self, index: int) -> Value:
        """The input at `index`, which must be a value."""
        operand = self.inputs[index]
        assert isinstance(operand, Value), f"{self.op}: input {index} is not a value"
        return operand

    def weight(self, index: int) -> Weight:
        """The input at `index`, which must be a weight."""
        operand = self.inputs[index]
        assert isinstance(operand, Weight), f"{self.op}: input {index} is not a weight"
        return operand

    def map_inputs(self, change: Callable[[Operand], Operand]) -> Node:
        """This node with `change` applied to every input."""
        return dataclasses.replace(self, inputs=tuple(change(operand) for operand in self.inputs))


@dataclass(frozen=True)
class Network:
    """A decoder as an ordered list of nodes. The last node computes the logits.

    Attributes:
        config: the model it was made from.
        nodes: in order of execution.
        mapping: which rank's part it is.
    """

    config: ModelConfig
    nodes: tuple[Node, ...]
    mapping: RankMapping = field(default_factory=RankMapping)

    def with_nodes(self, nodes: Iterable[Node]) -> Network:
        """This network with other nodes."""
        return dataclasses.replace(self, nodes=tuple(nodes))

    def num_uses(self) -> Mapping[str, int]:
        """How often each value is read, by name."""
        uses = {node.output.name: 0 for node in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                if isinstance(operand, Value):
                    uses[operand.name] += 1
        return uses

    def producers(self) -> Mapping[str, Node]:
        """The node that computes each value, by the value's name."""
        return {node.output.name: node for node in self.nodes}
