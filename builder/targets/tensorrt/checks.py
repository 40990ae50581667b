# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the `tensorrt` target cannot take, found before anything is compiled."""

from __future__ import annotations

from enginery.builder.errors import OptionError, Problems
from enginery.builder.network.network import Network, Node
from enginery.builder.options import BuildOptions
from enginery.quantization import CODE_KV_DTYPES, INT4_BLOCK

# Inputs of a linear layer: one tensor-core operand of 16 elements.
DEPTH_MULTIPLE = 16


def check_kernels_take(network: Network, options: BuildOptions) -> None:
    """Checks a rank's network and options.

    Raises:
        OptionError: with every problem found.
    """
    problems = Problems(f"target tensorrt, {network.config.family.architecture}", OptionError)
    if options.kv_cache_dtype not in (options.dtype, *CODE_KV_DTYPES):
        problems.add(
            "kv_cache_dtype",
            f"{options.kv_cache_dtype!r} beside dtype {options.dtype}; the KV cache has the build "
            "dtype, fp8 or int8",
            "leave it at auto",
        )
    if any(node.op == "group_sums" for node in network.nodes):
        problems.add(
            "qformat",
            f"{options.qformat} takes symmetric codes; those of the checkpoint have zero points",
            "choose --qformat int8_wo, which quantises the values anew, or --sku cpu",
        )
    sizes = {blocks.size for node in _linears(network) if (blocks := node.weight(1).blocks)}
    for size in sizes - {INT4_BLOCK}:
        problems.add(
            "qformat",
            f"{options.qformat} takes codes in blocks of {INT4_BLOCK} inputs; those of the "
            f"checkpoint are in blocks of {size}",
            "choose --qformat int8_wo, which quantises the values anew, or --sku cpu",
        )
    linears = {node.weight(1).name.rsplit(".", 2)[-2]: node for node in _linears(network)}
    for name, node in linears.items():
        _check_depth(name, node, options, problems)
    problems.raise_if_any()


def _linears(network: Network) -> list[Node]:
    return [node for node in network.nodes if node.op == "linear"]


def _check_depth(name: str, node: Node, options: BuildOptions, problems: Problems) -> None:
    depth = node.value(0).columns
    of_a_rank = f" of a rank of {options.tp_size}" * (options.tp_size > 1)
    if depth % DEPTH_MULTIPLE:
        problems.add(
            name,
            f"takes {depth} inputs{of_a_rank}; the kernels take multiples of {DEPTH_MULTIPLE}",
            "choose another --tp-size, or --sku cpu" if options.tp_size > 1 else "choose --sku cpu",
        )
    elif node.weight(1).dtype == "i4" and depth % INT4_BLOCK:
        fix = "choose --qformat int8_wo"
        if options.tp_size > 1:
            fix += ", or another --tp-size"
        problems.add(
            "qformat",
            f"int4_wo scales blocks of {INT4_BLOCK} inputs; {name} takes {depth}{of_a_rank}",
            fix,
        )
