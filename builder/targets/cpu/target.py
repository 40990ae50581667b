# SPDX-License-Identifier: Apache-2.0
"""Lowers a network to the steps of the `cpu` target."""

from __future__ import annotations

from enginery.builder.engine.program import Program
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions
from enginery.builder.targets.cpu.constants import Constants
from enginery.builder.targets.cpu.lowering import lower_steps
from enginery.builder.targets.target import Payload

# Panels of 16 channels suit every instruction set; kernels are chosen when the engine is opened.
VARIANT = "x86-64"


class CpuTarget:
    """The `cpu` target; see `enginery.builder.targets.target.Target`."""

    name = "cpu"

    def lower(self, network: Network, options: BuildOptions) -> Payload:
        """Returns steps with fused operations, and weights in panels; reads no weights yet."""
        constants = Constants(network, options.qformat)
        buffers, steps = lower_steps(network, constants)
        program = Program(
            _attributes(network, options), constants.tensors, tuple(buffers), tuple(steps)
        )
        return Payload(VARIANT, program, constants.pack)


def _attributes(network: Network, options: BuildOptions) -> dict[str, int | str | tuple[int, ...]]:
    config, tp_size = network.config, network.mapping.tp_size
    return {
        "architecture": config.family.architecture,
        "dtype": options.dtype,
        "qformat": options.qformat,
        "kv_cache_dtype": options.kv_cache_dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads // tp_size,
        "num_kv_heads": config.num_kv_heads // tp_size,
        "head_dim": config.head_dim,
        "max_batch_size": options.max_batch_size,
        "max_num_tokens": options.max_num_tokens,
        "max_seq_len": options.max_seq_len,
        "max_input_len": options.max_input_len,
        "tokens_per_block": options.tokens_per_block,
        "eos_token_ids": config.eos_token_ids,
        "bos_token_id": config.bos_token_id,
        "pad_token_id": config.pad_token_id,
    }
