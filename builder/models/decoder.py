# SPDX-License-Identifier: Apache-2.0
"""The decoder that all families share, as a plain network: nothing fused, nothing quantised."""

from __future__ import annotations

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.network.network import Network, Node, Operand, Value
from enginery.builder.network.ops import node
from enginery.builder.network.weight import Weight, whole

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def build_decoder(config: ModelConfig) -> Network:
    """Returns the network of a decoder-only model, with weights named as in the checkpoint."""
    builder = _Decoder(config)
    return Network(config, tuple(builder.nodes()))


class _Decoder:
    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._nodes: list[Node] = []

    def nodes(self) -> list[Node]:
        config = self.config
        embedding = whole(EMBEDDING, (config.vocab_size, config.hidden_size))
        lm_head = whole(LM_HEAD, embedding.shape)
        x = self._add("embed", "hidden_states", embedding)
        for layer in range(config.num_layers):
            x = self._layer(layer, x)
        # Rows that want no logits are dropped before the norm.
        x = self._add("gather_rows", "last_rows", x)
        x = self._norm("model.norm", "norm", x)
        weight = embedding if config.tie_word_embeddings else lm_head
        self._add("linear", "logits", x, weight, None, None)
        return self._nodes

    def _layer(self, layer: int, x: Value) -> Value:
        config, prefix = self.config, f"model.layers.{layer}."
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim

        y = self._norm(f"{prefix}input_layernorm", f"layers.{layer}.input_layernorm", x)
        attn = f"{prefix}self_attn."
        q = self._linear(f"{attn}q_proj", y, heads * head_dim, has_bias=config.qkv_bias)
        k = self._linear(f"{attn}k_proj", y, kv_heads * head_dim, has_bias=config.qkv_bias)
        v = self._linear(f"{attn}v_proj", y, kv_heads * head_dim, has_bias=config.qkv_bias)
        y = self._add(
            "attention",
            f"layers.{layer}.attention",
            q,
            k,
            v,
            self._head_norm(f"{attn}q_norm.weight"),
            self._head_norm(f"{attn}k_norm.weight"),
            layer=layer,
            head_dim=head_dim,
            sliding_window=config.sliding_windows[layer],
            epsilon=config.norm_epsilon,
        )
        y = self._linear(f"{attn}o_proj", y, config.hidden_size, has_bias=config.output_bias)
        x = self._add("add", f"layers.{layer}.attention_residual", x, y)

        y = self._norm(
            f"{prefix}post_attention_layernorm", f"layers.{layer}.post_attention_layernorm", x
        )
        mlp = f"{prefix}mlp."
        gate = self._linear(f"{mlp}gate_proj", y, config.intermediate_size, config.mlp_bias)
        up = self._linear(f"{mlp}up_proj", y, config.intermediate_size, config.mlp_bias)
        y = self._add("swiglu", f"layers.{layer}.swiglu", gate, up)
        y = self._linear(f"{mlp}down_proj", y, config.hidden_size, config.mlp_bias)
        return self._add("add", f"layers.{layer}.mlp_residual", x, y)

    def _norm(self, tensor: str, name: str, x: Value) -> Value:
        weight = whole(f"{tensor}.weight", (x.columns,))
        return self._add("rms_norm", name, x, weight, epsilon=self.config.norm_epsilon)

    def _head_norm(self, tensor: str) -> Weight | None:
        config = self.config
        return whole(tensor, (config.head_dim,)) if config.family.qk_norm else None

    def _linear(self, tensor: str, x: Value, num_outputs: int, has_bias: bool) -> Value:
        weight = whole(f"{tensor}.weight", (num_outputs, x.columns))
        bias = whole(f"{tensor}.bias", (num_outputs,)) if has_bias else None
        return self._add("linear", tensor.removeprefix("model."), x, weight, bias, None)

    def _add(self, op: str, name: str, *inputs: Operand, **attributes: int | float | str) -> Value:
        made = node(op, name, *inputs, **attributes)
        self._nodes.append(made)
        return made.output
