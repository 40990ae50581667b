# SPDX-License-Identifier: Apache-2.0
"""The quantisation schemes (`qformat`) by name."""

from __future__ import annotations

from dataclasses import dataclass

from enginery.quantization.int4 import INT4_BLOCK


@dataclass(frozen=True)
class Scheme:
    """What a scheme stores for linear layers and what it feeds them.

    Attributes:
        name: the `qformat` that selects it.
        weight_dtype: dtype in which weights of linear layers are stored; None is the build dtype.
        activation_dtype: dtype of the other operand; None is the build dtype.
        quant_algo: the name in `config.json`, in the words of TensorRT-LLM where it has one.
        summary: one line for tables and help.
        quantizes_lm_head: whether the output projection is a linear layer like the others; if not,
            it stays in the build dtype.
        lm_head_dtype: dtype of the output projection's weight where it is quantised to another
            than the others'; None is that of the others.
        embedding_dtype: dtype of an embedding that is not the output projection's weight; None is
            the build dtype.
        has_input_scales: whether activations are quantised by scales that the checkpoint gives
            (`<module>.input_scale`).
        needs_codes: whether the checkpoint must hold the weights' codes, which calibration chose.
        like: the scheme that computes the same from weights of another origin; empty: none does.
        dtypes: the build dtypes beside it; None is every one.
    """

    name: str
    weight_dtype: str | None
    activation_dtype: str | None
    quant_algo: str | None
    summary: str
    quantizes_lm_head: bool = True
    lm_head_dtype: str | None = None
    embedding_dtype: str | None = None
    has_input_scales: bool = False
    needs_codes: bool = False
    like: str = ""
    dtypes: tuple[str, ...] | None = None

    @property
    def is_calibrated(self) -> bool:
        """Whether it takes what only calibration gives."""
        return self.has_input_scales or self.needs_codes

    @property
    def product_dtype(self) -> str | None:
        """Of INT4 beside activations in codes: what a code times its group's scale is.

        Of "i8", where that scale is an integer, sums with INT8 activations are exact. "f8e4m3", to
        which it is rounded, is what units multiply that take two operands in FP8. Either is times a
        float of the row. None: activations are floats, and the scale of a group is one.
        """
        return self.activation_dtype if self.weight_dtype == "i4" else None

    @property
    def computed_as(self) -> str:
        """The name by which kernels know it."""
        return self.like or self.name


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
W4A8_DYNAMIC = Scheme(
    "w4a8_dynamic",
    "i4",
    "i8",
    # A name of ours: TensorRT-LLM's nearest, W4A8_QSERVE_PER_GROUP, has zero points.
    "W4A8_PER_GROUP_PER_TOKEN",
    f"INT4 weights in groups of {INT4_BLOCK} inputs, activations as int8_dynamic; lm_head in INT8",
    lm_head_dtype="i8",
    embedding_dtype="i8",
)
INT4_WO = Scheme(
    "int4_wo",
    "i4",
    None,
    "W4A16",
    f"INT4 weights, one scale per {INT4_BLOCK} inputs of a channel; activations never quantised",
    quantizes_lm_head=False,
    dtypes=("bfloat16", "float16"),
)
INT4_AWQ = Scheme(
    "int4_awq",
    "i4",
    None,
    "W4A16_AWQ",
    "INT4 weights as int4_wo, chosen by calibration so that what matters most loses least (AWQ)",
    quantizes_lm_head=False,
    needs_codes=True,
    like="int4_wo",
    dtypes=("bfloat16", "float16"),
)
W4A8_AWQ = Scheme(
    "w4a8_awq",
    "i4",
    "f8e4m3",
    "W4A8_AWQ",
    "INT4 weights as int4_awq, activations FP8 by the checkpoint's scales (calibrated)",
    quantizes_lm_head=False,
    has_input_scales=True,
    needs_codes=True,
)
INT8_SQ = Scheme(
    "int8_sq",
    "i8",
    "i8",
    "W8A8_SQ_PER_CHANNEL",
    "INT8 weights per channel, activations INT8 by the checkpoint's scales (calibrated, smoothed)",
    quantizes_lm_head=False,
    has_input_scales=True,
)
FP8 = Scheme(
    "fp8",
    "f8e4m3",
    "f8e4m3",
    "FP8",
    "FP8 (E4M3) weights per channel, activations FP8 by the checkpoint's scales (calibrated)",
    quantizes_lm_head=False,
    has_input_scales=True,
)

CODE_KV_DTYPES = ("fp8", "int8")
"""Dtypes of the KV cache that are codes of a scale per layer, one of keys and one of values."""

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        NONE,
        INT8_WO,
        INT8_DYNAMIC,
        W4A8_DYNAMIC,
        INT4_WO,
        INT4_AWQ,
        W4A8_AWQ,
        INT8_SQ,
        FP8,
    )
}
