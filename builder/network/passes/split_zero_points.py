# SPDX-License-Identifier: Apache-2.0
"""Products with INT4 codes that have zero points become a product of the codes and a small one.

    sum over k of (q - z) s x  =  sum over k of q s x  +  sum over blocks of (-z s) (sum of x)

The second has one column per block of inputs, and so the kernels know nothing of zero points.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from enginery.builder.network.network import Network, Node
from enginery.builder.network.ops import node
from enginery.builder.targets.code_rows import zero_terms_of


def split_zero_points(network: Network, with_zero_points: Collection[str]) -> Network:
    """Rewrites the linear layers whose INT4 weights have zero points.

    Args:
        network: quantised, a rank's part.
        with_zero_points: checkpoint tensors whose codes have zero points.
    """
    if not with_zero_points:
        return network
    nodes = [made for current in network.nodes for made in _split(current, with_zero_points)]
    return network.with_nodes(nodes)


def _split(current: Node, with_zero_points: Collection[str]) -> Iterator[Node]:
    is_concerned = (
        current.op == "linear"
        and current.weight(1).dtype == "i4"
        and any(part.tensor in with_zero_points for part in current.weight(1).parts)
    )
    if not is_concerned:
        yield current
        return
    x, weight, bias, residual = current.inputs
    name = current.output.name
    terms_weight = zero_terms_of(current.weight(1))
    assert terms_weight.blocks is not None
    sums = node("group_sums", f"{name}.group_sums", x, group=terms_weight.blocks.size)
    yield sums
    terms = node("linear", f"{name}.zero_terms", sums.output, terms_weight, None, residual)
    yield terms
    yield node("linear", name, x, weight, bias, terms.output)
