# SPDX-License-Identifier: Apache-2.0
"""Mistral: Llama with a sliding attention window in every layer, or none."""

from enginery.builder.models.family import Family, Window

FAMILY = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    window=Window.ALL_LAYERS,
)
