# SPDX-License-Identifier: Apache-2.0
"""Which linear layers a build leaves in its dtype."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from enginery.builder.errors import OptionError, Problems
from enginery.builder.network.network import Network, Node


def linear_nodes(network: Network) -> list[Node]:
    """The linear layers of a plain network, the output projection last."""
    return [node for node in network.nodes if node.op == "linear"]


def module_of(node: Node) -> str:
    """The module of a linear layer: that of its weight, which a tied lm_head has not."""
    if node.output.name == "logits":
        return "lm_head"
    return node.weight(1).name.removesuffix(".weight")


def excluded_weights(network: Network, patterns: Sequence[str]) -> frozenset[str]:
    """The weights of the layers whose modules match a pattern, by name.

    Args:
        network: plain.
        patterns: as in a shell, of whole module names or of their ends from a dot on: "lm_head",
            "down_proj", "layers.0.*".

    Raises:
        OptionError: with every pattern that no module matches.
    """
    problems = Problems("options", OptionError)
    linears = linear_nodes(network)
    found = set()
    for pattern in patterns:
        names = [n.weight(1).name for n in linears if _matches(module_of(n), pattern)]
        found.update(names)
        if not names:
            examples = ", ".join([module_of(linears[0]), "down_proj", "layers.0.*", "lm_head"])
            problems.add(
                "exclude_modules", f"{pattern!r} matches no linear layer", f"e.g. {examples}"
            )
    problems.raise_if_any()
    return frozenset(found)


def stacks(network: Network) -> list[list[str]]:
    """Names of the weights of layers that read one value, and are computed as one where stacked."""
    found: dict[str, list[str]] = {}
    for node in linear_nodes(network):
        found.setdefault(node.value(0).name, []).append(node.weight(1).name)
    return list(found.values())


def whole_stacks(network: Network, excluded: Collection[str]) -> frozenset[str]:
    """Adds the layers that are computed as one with an excluded one: those that read its input."""
    touched = [names for names in stacks(network) if not set(names).isdisjoint(excluded)]
    return frozenset().union(*touched)


def _matches(module: str, pattern: str) -> bool:
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"*.{pattern}")
