# SPDX-License-Identifier: Apache-2.0
"""Weights as nvidia-modelopt exports them ("unified Hugging Face checkpoint").

    <module>.weight                F8_E4M3 or I8 [N, K], or U8 [N / 2, K]: INT4, row 2i in the low
                                   nibbles of row i, row 2i + 1 in the high ones
    <module>.weight_scale          [], [1] or [N]; for INT4 [N, K / group]
    <module>.weight_scale_2        of W4A8_AWQ, whose values are rounded to FP8 a second time by it;
                                   codes and weight_scale do without
    <module>.pre_quant_scale [K]   what the module's input is multiplied by first
    <module>.input_scale           of activations

Checkpoints without a `quantization_config` are read so too: what is not codes stays what it is.
"""

from __future__ import annotations

import numpy as np

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.stored_weight import (
    Codes,
    FloatArray,
    Interval,
    RawTensors,
    StoredWeight,
    TensorInfo,
)
from enginery.builder.checkpoint.imports.values import read_values
from enginery.builder.errors import Problems

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
    given = raw.tensors[scale].shape
    if dtype == "I4":
        num_groups = given[1] if len(given) == 2 and given[0] == num_rows else 0
        if not num_groups or depth % num_groups:
            problems.add(
                scale, f"has shape {list(given)}; [{num_rows}, {depth} / group] is expected"
            )
            return None
        group_size = depth // num_groups
    else:
        if given not in ((), (1,), (num_rows,), (num_rows, 1)):
            problems.add(scale, f"has shape {list(given)}; [], [1] or [{num_rows}] is expected")
            return None
        group_size = depth
    rest = (f"{name}_scale_2",) if f"{name}_scale_2" in raw.tensors else ()
    return _ModelOptWeight(raw, name, dtype, (num_rows, depth), group_size, rest)


class _ModelOptWeight(StoredWeight):
    def __init__(
        self,
        raw: RawTensors,
        name: str,
        dtype: str,
        shape: tuple[int, int],
        group_size: int,
        rest: tuple[str, ...],
    ) -> None:
        super().__init__(dtype, shape, group_size, (name, f"{name}_scale", *rest))
        self._raw = raw

    def codes(self, rows: Interval, columns: Interval) -> Codes:
        """See `StoredWeight.codes`."""
        name, scale = self.tensors[:2]
        if self.dtype == "I4":
            first, last = rows[0] // 2, -(-rows[1] // 2)
            packed = self._raw.read(name, slice(first, last), slice(*columns))
            # [pairs, 2, K]: the code stands in the upper nibble; shifting it down as a signed
            # number extends its sign.
            nibbles = np.stack([packed << np.uint8(4), packed & np.uint8(0xF0)], axis=1)
            signed = nibbles.view(np.int8) >> np.int8(4)
            both = signed.reshape(-1, packed.shape[1])
            q = both[rows[0] - 2 * first : rows[1] - 2 * first]
        else:
            q = self._raw.read(name, slice(*rows), slice(*columns))
        return Codes(q, self._scales(scale, rows, columns), None, self.group_size)

    def _scales(self, name: str, rows: Interval, columns: Interval) -> FloatArray:
        shape = self._raw.tensors[name].shape
        if len(shape) == 2:
            groups = slice(columns[0] // self.group_size, -(-columns[1] // self.group_size))
            return read_values(self._raw, name, slice(*rows), groups)
        num_rows = rows[1] - rows[0]
        if shape == (self.shape[0],):
            return read_values(self._raw, name, slice(*rows)).reshape(num_rows, 1)
        return np.full((num_rows, 1), read_values(self._raw, name).reshape(-1)[0], np.float32)
