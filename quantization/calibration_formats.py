# SPDX-License-Identifier: Apache-2.0
"""The formats that calibration writes a checkpoint in, by name."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_SIZE = 512
# What the authors of AWQ take. The search computes every linear layer a dozen times for each
# window, and its choice is one exponent of eleven, not the largest value that was ever seen.
AWQ_SIZE = 128


@dataclass(frozen=True)
class CalibrationFormat:
    """What a format stores and what its calibration takes.

    Attributes:
        name: the `qformat` that selects it.
        summary: one line for tables and help.
        reads_data: whether scales follow from activations, not from the weights alone.
        pass_costs: of each reading of the data, its time as a multiple of a plain forward pass.
        has_blocks: whether as many inputs share a weight scale as are asked for, which must divide
            a layer's inputs; else all of a row do.
        default_size: windows that are read where no number is given.
    """

    name: str
    summary: str
    reads_data: bool = True
    pass_costs: tuple[float, ...] = (1.0,)
    has_blocks: bool = False
    default_size: int = DEFAULT_SIZE


# The second pass of AWQ tries eleven exponents for the scales of each layer.
AWQ_PASSES = (1.0, 12.0)
CALIBRATION_FORMATS = {
    form.name: form
    for form in (
        CalibrationFormat("fp8", "FP8 (E4M3) weights and activations, one scale per tensor"),
        CalibrationFormat(
            "int8_sq", "INT8 weights per channel, INT8 activations, smoothed (SmoothQuant)"
        ),
        CalibrationFormat(
            "int4_awq",
            "INT4 weights in blocks of inputs, scaled by activations (AWQ)",
            pass_costs=AWQ_PASSES,
            has_blocks=True,
            default_size=AWQ_SIZE,
        ),
        CalibrationFormat(
            "w4a8_awq",
            "int4_awq with FP8 activations",
            pass_costs=AWQ_PASSES,
            has_blocks=True,
            default_size=AWQ_SIZE,
        ),
        CalibrationFormat("int8_wo", "INT8 weights per channel", reads_data=False),
        CalibrationFormat(
            "int4_wo", "INT4 weights in blocks of inputs", reads_data=False, has_blocks=True
        ),
        CalibrationFormat("none", "weights as they are, for --kv_cache_dtype", reads_data=False),
    )
}
KV_CACHE_FORMATS = ("auto", "fp8", "int8")
"""Dtypes of the KV cache that scales are written for; "auto" writes none."""
