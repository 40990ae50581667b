# SPDX-License-Identifier: Apache-2.0
"""The quantisation schemes (`qformat`) by name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """What a scheme stores for linear layers and what it feeds them.

    Attributes:
        name: the `qformat` that selects it.
        weight_dtype: dtype in which weights of linear layers are stored; None is the build dtype.
        activation_dtype: dtype of the other operand; None is the build dtype.
        quant_algo: the name in `config.json`, in the words of TensorRT-LLM where it has one.
        summary: one line for tables and help.
    """

    name: str
    weight_dtype: str | None
    activation_dtype: str | None
    quant_algo: str | None
    summary: str


NONE = Scheme("none", None, None, None, "weights and activations in the build dtype")
INT8_WO = Scheme(
    "int8_wo",
    "i8",
    None,
    "W8A16",
    "INT8 weights, one scale per output channel; activations are never quantised",
)
INT8_DYNAMIC = Scheme(
    "int8_dynamic",
    "i8",
    "i8",
    "INT8_PER_CHANNEL_PER_TOKEN",
    "INT8 weights as int8_wo, activations symmetric INT8 per token",
)

SCHEMES = {scheme.name: scheme for scheme in (NONE, INT8_WO, INT8_DYNAMIC)}
