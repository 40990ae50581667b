# SPDX-License-Identifier: Apache-2.0
"""Llama 1, 2, 3, 3.1, 3.2 and checkpoints saved in their form."""

from enginery.builder.models.family import Bias, Family

FAMILY = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    qkv_bias=Bias.BY_CONFIG,
    output_bias=Bias.BY_CONFIG,
    mlp_bias=Bias.BY_CONFIG,
    num_kv_heads_required=False,  # the first Llama has no grouped queries and does not say so
)
