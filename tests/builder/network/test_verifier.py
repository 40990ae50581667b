# SPDX-License-Identifier: Apache-2.0
"""The verifier refuses networks that a defective pass could leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.builder.checkpoint.config import read_config
from enginery.builder.models.decoder import build_decoder
from enginery.builder.network.network import Network, Node, Value
from enginery.builder.network.ops import node
from enginery.builder.network.passes.fuse_gate_up import fuse_gate_up
from enginery.builder.network.passes.fuse_qkv import fuse_qkv
from enginery.builder.network.passes.fuse_residual import fuse_residual
from enginery.builder.network.verifier import NetworkError, verify
from enginery.builder.network.weight import whole
from tests.support.checkpoints import write_tiny_checkpoint

Nodes = list[Node]


@pytest.fixture
def network(tmp_path: Path) -> Network:
    config = read_config(write_tiny_checkpoint(tmp_path, "llama"))
    return fuse_residual(fuse_gate_up(fuse_qkv(build_decoder(config))))


def index_of(nodes: Nodes, op: str) -> int:
    return next(i for i, n in enumerate(nodes) if n.op == op)


def reorder(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "paged_attention")
    return [*nodes[: i - 1], nodes[i], nodes[i - 1], *nodes[i + 1 :]]


def drop(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "silu_mul")
    return nodes[:i] + nodes[i + 1 :]


def repeat(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "rms_norm")
    return [*nodes[: i + 1], *nodes[i:]]


def read_overwritten(nodes: Nodes) -> Nodes:
    """The second layer's norm reads the residual as it was before the first layer added to it."""
    i = index_of(nodes, "embed")
    stream = nodes[i].output
    j = [k for k, n in enumerate(nodes) if n.op == "rms_norm"][2]
    nodes[j] = dataclasses.replace(nodes[j], inputs=(stream, nodes[j].inputs[1]))
    return nodes


def wrong_type(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "gather_rows")
    output = dataclasses.replace(nodes[i].output, dtype="bf16")
    nodes[i] = dataclasses.replace(nodes[i], output=output)
    return nodes


def wrong_shape(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "rms_norm")
    nodes[i] = dataclasses.replace(nodes[i], inputs=(nodes[i].inputs[0], whole("w", (127,))))
    return nodes


def mixed_dtypes(nodes: Nodes) -> Nodes:
    i = index_of(nodes, "linear")
    x, _, *rest = nodes[i].inputs
    nodes[i] = dataclasses.replace(
        nodes[i], inputs=(x, nodes[i].weight(1).stored_as("bf16"), *rest)
    )
    return nodes


def unknown_op(nodes: Nodes) -> Nodes:
    nodes[1] = dataclasses.replace(nodes[1], op="layer_norm")
    return nodes


def renamed_logits(nodes: Nodes) -> Nodes:
    last = nodes[-1]
    return [
        *nodes[:-1],
        dataclasses.replace(last, output=dataclasses.replace(last.output, name="y")),
    ]


BROKEN: dict[str, tuple[Callable[[Nodes], Nodes], str]] = {
    "reordered": (reorder, "is not computed before it"),
    "dropped": (drop, "is not computed before it"),
    "repeated": (repeat, "the name is taken"),
    "overwritten": (read_overwritten, "'hidden_states' was overwritten by"),
    "wrong_type": (wrong_type, "its operation gives"),
    "wrong_shape": (wrong_shape, "weight does not fit x"),
    "mixed_dtypes": (mixed_dtypes, "bf16 weight with f32 operand"),
    "unknown_op": (unknown_op, "no such operation"),
    "renamed_logits": (renamed_logits, "the last node gives"),
    "empty": (lambda nodes: [], "the last node gives None"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_networks(network: Network, case: str) -> None:
    verify(network, after="fusion")
    damage, message = BROKEN[case]
    with pytest.raises(NetworkError, match=message) as error:
        verify(network.with_nodes(damage(list(network.nodes))), after="a pass")
    assert str(error.value).startswith("after a pass: ")


def test_a_value_that_differs_from_the_one_computed_is_refused(network: Network) -> None:
    nodes = list(network.nodes)
    stream = nodes[0].output
    nodes.insert(1, node("gather_rows", "early", Value(stream.name, "tokens", 64)))
    with pytest.raises(NetworkError, match="is not computed before it"):
        verify(network.with_nodes(nodes), after="a pass")
