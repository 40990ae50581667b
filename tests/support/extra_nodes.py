# SPDX-License-Identifier: Apache-2.0
"""Networks with nodes that no plain checkpoint asks for, and the tensors that these read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from enginery.builder import build
from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight, WeightPart, whole

from .checkpoints import write_safetensors
from .scales import read_tensors

WEIGHT, FACTOR = ".o_proj.weight", ".o_proj.factor"


def add_factors(directory: Path) -> Path:
    """Adds a factor, f32 `[K]` in 0.5..2 of either sign, of what each `o_proj` reads."""
    tensors, dtypes = read_tensors(directory / "model.safetensors")
    rng = np.random.default_rng(11)
    for name in [name for name in tensors if name.endswith(WEIGHT)]:
        columns = tensors[name].shape[1]
        factor = np.exp2(rng.uniform(-1, 1, columns)) * rng.choice([-1, 1], columns)
        tensors[name.replace(WEIGHT, FACTOR)] = factor.astype(np.float32)
        dtypes[name.replace(WEIGHT, FACTOR)] = "F32"
    write_safetensors(directory / "model.safetensors", tensors, dtypes)
    return directory


def with_factors(network: Network) -> Network:
    """A plain network whose attention is multiplied by those factors before `o_proj` reads it."""
    nodes: list[Node] = []
    for current in network.nodes:
        if current.op == "linear" and current.weight(1).name.endswith(WEIGHT):
            x = current.value(0)
            factor = whole(current.weight(1).name.replace(WEIGHT, FACTOR), (x.columns,))
            nodes.append(node("scale_columns", f"{x.name}.scaled", x, factor))
            _, *rest = current.inputs
            current = node("linear", current.output.name, nodes[-1].output, *rest)
        nodes.append(current)
    return network.with_nodes(nodes)


def with_group_sums(network: Network, group: int) -> Network:
    """A network after all passes that adds to qkv a product with sums of what it is made from.

    The product's weight, f32, is the first columns of the weight of qkv.
    """
    nodes: list[Node] = []
    replaced: dict[str, Value] = {}

    def change(operand: Operand) -> Operand:
        return replaced.get(operand.name, operand) if isinstance(operand, Value) else operand

    for current in network.nodes:
        nodes.append(current.map_inputs(change))
        qkv = current.output
        if current.op != "linear" or not current.weight(1).name.endswith("qkv_proj.weight"):
            continue
        nodes.append(node("group_sums", f"{qkv.name}.sums", current.value(0), group=group))
        sums = nodes[-1].output
        parts = (WeightPart(p.tensor, p.rows, (0, sums.columns)) for p in current.weight(1).parts)
        weight = Weight(f"{current.weight(1).name}.of_sums", tuple(parts))
        nodes.append(node("linear", f"{qkv.name}.corrected", sums, weight, None, qkv))
        replaced[qkv.name] = nodes[-1].output
    return network.with_nodes(nodes)


@contextmanager
def builds_with(after: str, change: Callable[[Network], Network]) -> Iterator[None]:
    """Builds within take the network that the function `after` of a build gives, changed.

    Args:
        after: "build_decoder" or "run_passes".
        change: of the network.
    """
    function = getattr(build, after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, after, lambda *args: change(function(*args)))
        yield
