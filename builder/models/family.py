# SPDX-License-Identifier: Apache-2.0
"""What tells one decoder family from another, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Bias(Enum):
    """Whether linear layers have a bias: by the family, or by an entry of the configuration."""

    NEVER = "never"
    ALWAYS = "always"
    BY_CONFIG = "by config"


class Window(Enum):
    """Where a family's sliding attention window comes from."""

    NONE = "none"
    ALL_LAYERS = "all layers"  # `sliding_window`, null for none
    UPPER_LAYERS = "upper layers"  # `use_sliding_window`, `max_window_layers`, `layer_types`


@dataclass(frozen=True)
class Family:
    """A decoder family: RMS norm, rotary attention with grouped queries, gated SiLU MLP.

    Attributes:
        name: short name, also `model_type` of the checkpoint.
        architecture: the entry of `architectures` that selects it.
        qkv_bias: biases of q_proj, k_proj and v_proj (BY_CONFIG: `attention_bias`).
        output_bias: bias of o_proj (BY_CONFIG: `attention_bias`).
        mlp_bias: biases of gate_proj, up_proj and down_proj (BY_CONFIG: `mlp_bias`).
        qk_norm: RMS norm of each query and key head, before the rotation.
        window: where the sliding attention window comes from.
        default_head_dim: where the configuration gives none; None is hidden_size / num_heads.
        num_kv_heads_required: whether `num_key_value_heads` must be given; otherwise it defaults
            to `num_attention_heads`.
    """

    name: str
    architecture: str
    qkv_bias: Bias = Bias.NEVER
    output_bias: Bias = Bias.NEVER
    mlp_bias: Bias = Bias.NEVER
    qk_norm: bool = False
    window: Window = Window.NONE
    default_head_dim: int | None = None
    num_kv_heads_required: bool = True
