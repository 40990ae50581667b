# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the `cpu` target cannot take, found before anything is packed."""

from __future__ import annotations

from enginery.builder.engine.program import INT4
from enginery.builder.errors import OptionError, Problems
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions


def check_kernels_take(network: Network, options: BuildOptions) -> None:
    """Checks a rank's network.

    Raises:
        OptionError: with every problem found.
    """
    problems = Problems(f"target cpu, {network.config.family.architecture}", OptionError)
    weights = [node.weight(1) for node in network.nodes if node.op == "linear"]
    # Layers are alike: one of each name says it all.
    for name, weight in {weight.name.rsplit(".", 2)[-2]: weight for weight in weights}.items():
        columns, blocks = weight.parts[0].columns, weight.blocks
        if weight.dtype != INT4:
            continue
        assert columns is not None and blocks is not None
        # A share of the inputs begins where a group of the whole does; rank 0's always does.
        if columns[0] % blocks.size:
            problems.add(
                "qformat",
                f"{options.qformat} scales groups of {blocks.size} inputs; {name} takes "
                f"{weight.shape[1]} of a rank of {options.tp_size}",
                "choose another --tp_size, or --qformat int8_dynamic",
            )
        if blocks.product_dtype != "i8" and weight.shape[1] % blocks.size:
            problems.add(
                "qformat",
                f"{options.qformat} scales blocks of {blocks.size} inputs; {name} takes "
                f"{weight.shape[1]}",
                "choose w4a8_dynamic, which takes any number, or int8_wo",
            )
    problems.raise_if_any()
