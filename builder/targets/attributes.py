# SPDX-License-Identifier: Apache-2.0
"""The attributes that the program of every target has: the model's sizes and the limits."""

from __future__ import annotations

from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions


def program_attributes(
    network: Network, options: BuildOptions
) -> dict[str, int | str | tuple[int, ...]]:
    """Returns the attributes of a rank's program; heads are those of the rank."""
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
