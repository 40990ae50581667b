# SPDX-License-Identifier: Apache-2.0
"""Quantisation schemes and rounding; numpy only."""

from enginery.quantization.int8 import (
    Int8Weight,
    QuantizationError,
    dequantize_int8,
    quantize_int8,
)
from enginery.quantization.rounding import bfloat16_to_float32, float32_to_bfloat16
from enginery.quantization.schemes import SCHEMES, Scheme

__all__ = [
    "SCHEMES",
    "Int8Weight",
    "QuantizationError",
    "Scheme",
    "bfloat16_to_float32",
    "dequantize_int8",
    "float32_to_bfloat16",
    "quantize_int8",
]
