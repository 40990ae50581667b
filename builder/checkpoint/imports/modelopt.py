# SPDX-License-Identifier: Apache-2.0
"""Weights as nvidia-modelopt exports them ("unified Hugging Face checkpoint").

    <module>.weight                F8_E4M3 or I8 [N, K], or U8 [N / 2, K]: INT4, row 2i in the low
                                   nibbles of row i, row 2i + 1 in the high ones
    <module>.weight_scale          [], [1] or [N]; for INT4 [N, K / group]
    <module>.weight_scale_2        of W4A8_AWQ, whose values are rounded to FP8 a second time by it:
                                   a scale like those of activations, for who multiplies in FP8
    <module>.pre_quant_scale [K]   what the module's input is multiplied by first
    <module>.input_scale           of activations

Checkpoints without a `quantization_config` are read so too: what is not codes stays what it is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.grouped_weight import GroupedWeight, Parts
from enginery.builder.checkpoint.imports.packing import words_of
from enginery.builder.checkpoint.imports.plain_weight import Grid, PlainWeight
from enginery.builder.checkpoint.imports.stored_weight import (
    FloatArray,
    Interval,
    RawTensors,
    StoredWeight,
    TensorInfo,
)
from enginery.builder.checkpoint.imports.values import read_values
from enginery.builder.errors import Problems
from enginery.quantization import unpack_int4

# quant_algo -> the scheme that keeps its codes
QFORMATS = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "none",  # activations take scales as they come
    "W8A8_SQ_PER_CHANNEL": "int8_sq",
    "W8A16": "int8_wo",
    "W4A16": "int4_wo",
    "W4A16_AWQ": "int4_awq",
    "W4A8_AWQ": "w4a8_awq",
}
KV_DTYPES = {"FP8": "fp8", "INT8": "int8"}
CODE_DTYPES = {"F8_E4M3": "F8_E4M3", "I8": "I8", "U8": "I4"}


def read_modelopt(fields: Fields) -> Format:
    """Reads `quantization_config` of config.json or `quantization` of hf_quant_config.json."""
    # null where the KV cache alone has scales.
    algorithm = fields.string("quant_algo", default="")
    if algorithm and algorithm not in QFORMATS:
        accepted = ", ".join(QFORMATS)
        fields.problems.add(
            f"{fields.prefix}quant_algo",
            f"{algorithm!r} of modelopt is not supported; supported are {accepted}",
            "give the original checkpoint and choose --qformat",
        )
    # Both places name the cache: a string in one file, a compressed-tensors scheme in the other.
    kv = fields.values.get("kv_cache_quant_algo") or ""
    scheme = fields.object("kv_cache_scheme")
    if not kv and scheme:
        kv = "FP8" if scheme.get("type") == "float" else "INT8"
    if kv and kv not in KV_DTYPES:
        fields.problems.add(
            f"{fields.prefix}kv_cache_quant_algo",
            f"{kv!r} is not supported; supported are {', '.join(KV_DTYPES)}",
        )
    return ModelOpt(QFORMATS.get(algorithm, "none"), KV_DTYPES.get(str(kv)))


class ModelOpt(Format):
    """Weights whose dtype says that they are codes, with `weight_scale` beside them."""

    def __init__(self, qformat: str = "none", kv_cache_dtype: str | None = None) -> None:
        super().__init__("modelopt", qformat, kv_cache_dtype)

    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """See `Format.weights`."""
        found: dict[str, StoredWeight] = {}
        for name, info in raw.tensors.items():
            dtype = CODE_DTYPES.get(info.dtype)
            if dtype is None or not name.endswith(".weight"):
                continue
            scale = f"{name}_scale"
            if len(info.shape) != 2:
                problems.add(name, f"has shape {list(info.shape)}; codes [N, K] are expected")
            elif scale not in raw.tensors:
                problems.add(scale, f"is missing; {name} is stored as {info.dtype} codes")
            else:
                weight = _weight(name, dtype, info, raw, problems)
                found |= {} if weight is None else {name: weight}
        return found


def _weight(
    name: str, dtype: str, info: TensorInfo, raw: RawTensors, problems: Problems
) -> StoredWeight | None:
    scale = f"{name}_scale"
    num_rows, depth = info.shape[0] * (2 if dtype == "I4" else 1), info.shape[1]
    shape, given = (num_rows, depth), raw.tensors[scale].shape
    parts = Parts(name, scale)
    if dtype != "I4":
        if given not in ((), (1,), (num_rows,), (num_rows, 1)):
            problems.add(scale, f"has shape {list(given)}; [], [1] or [{num_rows}] is expected")
            return None
        is_per_row = given not in ((), (1,))
        return PlainWeight(raw, parts, dtype, shape, Grid(1 if is_per_row else num_rows, depth))
    num_groups = given[1] if len(given) == 2 and given[0] == num_rows else 0
    if not num_groups or depth % num_groups:
        problems.add(scale, f"has shape {list(given)}; [{num_rows}, {depth} / group] is expected")
        return None
    return Int4Weight(raw, parts, dtype, shape, depth // num_groups)


class Int4Weight(GroupedWeight):
    """A weight whose rows are packed in pairs, symmetric."""

    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[np.int8]:
        """See `GroupedWeight`."""
        pairs, inside = words_of(rows, per_word=2)
        packed = self.raw.read(self.parts.codes, pairs, slice(*columns))
        return np.ascontiguousarray(unpack_int4(packed.T).T[inside])

    def read_scale(self, rows: Interval, groups: Interval) -> FloatArray:
        """See `GroupedWeight`."""
        return read_values(self.raw, self.parts.scale, slice(*rows), slice(*groups))

    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """Never called: the format has none."""
        raise AssertionError("ModelOpt's INT4 is symmetric")
