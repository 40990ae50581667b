# SPDX-License-Identifier: Apache-2.0
"""q_proj, k_proj and v_proj become one linear layer, and attention works on its packed output."""

from __future__ import annotations

from enginery.builder.network.network import Network, Node
from enginery.builder.network.ops import node
from enginery.builder.network.passes.stacking import stack_linears


def fuse_qkv(network: Network) -> Network:
    """Rewrites `attention(q, k, v)` into `linear`, `kv_append` and `paged_attention`.

    One GEMM reads the normalised input once instead of three times, and its output row
    `[num_heads + 2 num_kv_heads, head_dim]` is what the KV cache append takes apart.
    """
    producers = network.producers()
    fused: set[str] = set()
    rewritten: list[Node] = []
    for current in network.nodes:
        if current.op != "attention":
            rewritten.append(current)
            continue
        linears = [producers[current.value(index).name] for index in range(3)]
        fused |= {linear.output.name for linear in linears}
        attributes = dict(current.attributes)
        head_dim = int(attributes["head_dim"])
        heads = {
            "layer": attributes["layer"],
            "epsilon": attributes["epsilon"],
            "num_heads": current.value(0).columns // head_dim,
            "num_kv_heads": current.value(1).columns // head_dim,
            "head_dim": head_dim,
        }
        q_norm, k_norm = current.inputs[3:]
        qkv = stack_linears("qkv_proj", linears)
        prefix = qkv.output.name.removesuffix("qkv_proj")
        appended = node("kv_append", f"{prefix}appended_qkv", qkv.output, k_norm, **heads)
        attended = node(
            "paged_attention",
            current.output.name,
            appended.output,
            appended.output,
            q_norm,
            sliding_window=attributes["sliding_window"],
            **heads,
        )
        rewritten += [qkv, appended, attended]
    return network.with_nodes(n for n in rewritten if n.output.name not in fused)
