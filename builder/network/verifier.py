# SPDX-License-Identifier: Apache-2.0
"""Checks that a network is well formed; run after every pass."""

from __future__ import annotations

from enginery.builder.network.network import Network, Value
from enginery.builder.network.ops import RULES, OutputType, ShapeError

# Operations that overwrite the input at this index with their output.
IN_PLACE_INPUT = {"linear": 3, "add": 0, "kv_append": 0, "all_reduce": 0}


class NetworkError(Exception):
    """A network is malformed: a defect of ours, told with the pass that left it so."""


def verify(network: Network, after: str) -> Network:
    """Checks order, types, single assignment and that nothing overwritten is read again.

    Args:
        network: what to check.
        after: the pass that made it, for the error.

    Returns:
        `network`, unchanged.

    Raises:
        NetworkError: it is malformed.
    """
    alive: dict[str, Value] = {}
    overwritten: dict[str, str] = {}
    for node in network.nodes:
        where = f"after {after}: {node.op} {node.output.name!r}"
        if node.op not in RULES:
            raise NetworkError(f"{where}: no such operation")
        for operand in node.inputs:
            if isinstance(operand, Value):
                if alive.get(operand.name) != operand:
                    raise NetworkError(f"{where}: {operand.name!r} is not computed before it")
                if operand.name in overwritten:
                    culprit = overwritten[operand.name]
                    raise NetworkError(f"{where}: {operand.name!r} was overwritten by {culprit!r}")
        try:
            expected = RULES[node.op](node.inputs, node.attributes)
        except (ShapeError, ValueError) as error:
            raise NetworkError(f"{where}: {error}") from error
        output = node.output
        if expected != OutputType(output.rows, output.columns, output.dtype):
            raise NetworkError(f"{where}: is {output}, its operation gives {expected}")
        if output.name in alive:
            raise NetworkError(f"{where}: the name is taken")
        alive[output.name] = output
        index = IN_PLACE_INPUT.get(node.op)
        target = None if index is None else node.inputs[index]
        if isinstance(target, Value):
            overwritten[target.name] = output.name
    last = network.nodes[-1].output if network.nodes else None
    expected_logits = Value("logits", "logits", network.config.vocab_size, "f32")
    if last != expected_logits:
        raise NetworkError(f"after {after}: the last node gives {last}, not {expected_logits}")
    return network
