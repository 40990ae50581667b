# SPDX-License-Identifier: Apache-2.0
"""How many bytes and operations a step of an engine takes at least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelWork:
    """What a model asks of memory and matrix units, from its engine's description.

    Attributes:
        decode_weight_bytes: weights that one step reads: all but the rows of an untied embedding.
        linear_ops: multiplications and additions of one token in the linear layers but the last.
        head_ops: likewise of the last, which only rows that want logits go through.
        attention_ops: of one token for each token of its context.
        kv_bytes_per_token: of all layers.
    """

    decode_weight_bytes: int
    linear_ops: int
    head_ops: int
    attention_ops: int
    kv_bytes_per_token: int

    @classmethod
    def of(cls, description: Mapping[str, Any], kv_bytes_per_token: int) -> ModelWork:
        """Reads `Engine.describe`."""
        attributes, steps = description["attributes"], description["steps"]
        embedded = {name for step in steps if step["op"] == "embed" for name in step["inputs"]}
        used_elsewhere = {
            name for step in steps if step["op"] != "embed" for name in step["inputs"]
        }
        last = {name for step in steps if "logits" in step["outputs"] for name in step["inputs"]}
        read, linear, head = 0, 0, 0
        for tensor in description["tensors"]:
            name, shape = tensor["name"], tensor["shape"]
            if name in embedded - used_elsewhere:
                continue
            read += tensor["bytes"]
            if len(shape) != 2 or name.endswith((".scale", ".inverse")):
                continue
            if name in last:
                head += 2 * math.prod(shape)
            else:
                linear += 2 * math.prod(shape)
        width = attributes["num_heads"] * attributes["head_dim"]
        attention = 4 * width * attributes["num_layers"]
        return cls(read, linear, head, attention, kv_bytes_per_token)

    def decode_bytes(self, num_sequences: int, context: float) -> float:
        """Bytes of a step that adds a token to each sequence."""
        return self.decode_weight_bytes + num_sequences * context * self.kv_bytes_per_token

    def prefill_ops(self, num_tokens: int) -> float:
        """Operations of a prompt from its first token to the logits of its last."""
        attention = self.attention_ops * num_tokens * (num_tokens + 1) / 2
        return self.linear_ops * num_tokens + self.head_ops + attention
