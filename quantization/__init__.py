# SPDX-License-Identifier: Apache-2.0
"""Quantisation schemes and rounding; numpy only."""

from enginery.quantization.fp8 import (
    E4M3_MAX,
    Fp8Weight,
    dequantize_fp8,
    e4m3_to_float32,
    float32_to_e4m3,
    quantize_fp8,
)
from enginery.quantization.fp8_int4 import Fp8Int4Weight, dequantize_fp8_int4
from enginery.quantization.grouped_int4 import (
    GroupedInt4Weight,
    dequantize_grouped_int4,
    quantize_grouped_int4,
)
from enginery.quantization.int4 import (
    INT4_BLOCK,
    INT4_BLOCKS,
    int4_codes,
    int4_scale,
    pack_int4,
    unpack_int4,
)
from enginery.quantization.int8 import Int8Weight, dequantize_int8, int8_codes, quantize_int8
from enginery.quantization.regrouped_int4 import TwoLevels, regroup_int4, two_levels
from enginery.quantization.rounding import (
    bfloat16_to_float32,
    float32_to_bfloat16,
    round_to,
    widen,
)
from enginery.quantization.scaling import QuantizationError, row_amax, row_scale
from enginery.quantization.schemes import CODE_KV_DTYPES, SCHEMES, Scheme

__all__ = [
    "CODE_KV_DTYPES",
    "E4M3_MAX",
    "INT4_BLOCK",
    "INT4_BLOCKS",
    "SCHEMES",
    "Fp8Int4Weight",
    "Fp8Weight",
    "GroupedInt4Weight",
    "Int8Weight",
    "QuantizationError",
    "Scheme",
    "TwoLevels",
    "bfloat16_to_float32",
    "dequantize_fp8",
    "dequantize_fp8_int4",
    "dequantize_grouped_int4",
    "dequantize_int8",
    "e4m3_to_float32",
    "float32_to_bfloat16",
    "float32_to_e4m3",
    "int4_codes",
    "int4_scale",
    "int8_codes",
    "pack_int4",
    "quantize_fp8",
    "quantize_grouped_int4",
    "quantize_int8",
    "regroup_int4",
    "round_to",
    "row_amax",
    "row_scale",
    "two_levels",
    "unpack_int4",
    "widen",
]
