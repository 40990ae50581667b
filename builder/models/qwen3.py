# SPDX-License-Identifier: Apache-2.0
"""Qwen3: RMS norm of every query and key head instead of biases."""

from enginery.builder.models.family import Bias, Family, Window

FAMILY = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    qkv_bias=Bias.BY_CONFIG,
    output_bias=Bias.BY_CONFIG,
    qk_norm=True,
    window=Window.UPPER_LAYERS,
    default_head_dim=128,
)
