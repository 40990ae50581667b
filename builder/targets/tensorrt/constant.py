# SPDX-License-Identifier: Apache-2.0
"""The stored tensors of a `tensorrt` program, before their bytes are made."""

from __future__ import annotations

from dataclasses import dataclass

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.network.weight import Weight
from enginery.quantization import SCHEMES

CODE_DTYPES = ("i8", "i4", "f8e4m3")


@dataclass(frozen=True)
class Constant:
    """A stored tensor.

    Attributes:
        name: in the program.
        dtype: as stored.
        shape: as stored, row-major.
        role: "data" (the weight's own values or codes), "scale" or "inverse" of `weight`;
            "inv_freq" of the rotation; "k_scale" or "v_scale" of a layer's KV cache.
        weight: for the first three roles.
        layer: for the last two, else -1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    weight: Weight | None = None
    layer: int = -1


class ConstantMaker:
    """Says which tensors a weight is stored as under one build dtype and scheme."""

    def __init__(self, config: ModelConfig, act: str, qformat: str) -> None:
        self.config = config
        self.act = act
        self.scheme = SCHEMES[qformat]

    def data(self, weight: Weight) -> Constant:
        """A weight's own tensor."""
        return Constant(weight.name, weight.dtype, weight.shape, "data", weight)

    def linear_scheme(self, weight: Weight) -> str:
        """What the codes of a linear layer's weight mean; "none" where it holds no codes."""
        return self.scheme.computed_as if weight.dtype in CODE_DTYPES else "none"

    def scale(self, weight: Weight) -> Constant | None:
        """Its scale: f32 `[N]` beside quantised activations, else act `[N]` or `[N, K / block]`."""
        if weight.dtype not in CODE_DTYPES:
            return None
        shape = weight.shape[:1]
        if weight.blocks is not None:
            shape = (*shape, weight.shape[1] // weight.blocks.size)
        dtype = "f32" if self.scheme.activation_dtype is not None else self.act
        return Constant(f"{weight.name}.scale", dtype, shape, "scale", weight)

    def inverse(self, weight: Weight) -> Constant | None:
        """What its operand is multiplied by to be quantised, f32 `[1]`, where it is."""
        if weight.dtype not in CODE_DTYPES or self.scheme.activation_dtype is None:
            return None
        return Constant(f"{weight.name}.inverse", "f32", (1,), "inverse", weight)

    def kv_scale(self, layer: int, which: str) -> Constant:
        """The scale of a layer's keys ("k") or values ("v"), f32 `[1]`."""
        role = f"{which}_scale"
        return Constant(f"layers.{layer}.{role}", "f32", (1,), role, layer=layer)

    def inv_freq(self) -> Constant:
        """Inverse frequencies of the rotary embedding, f32 `[head_dim / 2]`."""
        return Constant("rope.inv_freq", "f32", (self.config.head_dim // 2,), "inv_freq")
