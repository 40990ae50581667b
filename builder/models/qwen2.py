# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5: biases on the query, key and value projections."""

from enginery.builder.models.family import Bias, Family, Window

FAMILY = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    qkv_bias=Bias.ALWAYS,
    window=Window.UPPER_LAYERS,
)
