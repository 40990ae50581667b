# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of compressed-tensors, which llm-compressor writes.

For a linear layer of `[N, K]` a module has, in format "pack-quantized" with codes of b bits,

    weight_packed      int32 `[N, K * b / 32]`   codes plus half of their range, along the inputs
    weight_shape       int64 `[2]`               N, K
    weight_zero_point  int32 `[N * b / 32, G]`   packed like codes, but along the outputs
    weight_g_idx       int32 `[K]`               the group of each input, with actorder "group"

and in the other formats

    weight             int8 or F8_E4M3 `[N, K]`
    weight_zero_point  int8, of the scale's shape

Beside either stands weight_scale: float `[N, G]` for G groups of inputs, `[N, 1]`, one value, or
one per block. real = (code - zero point) * scale.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.compressed_tensors_config import (
    PACKED,
    Scheme,
    read_kv_cache_dtype,
    read_scheme,
)
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.grouped_weight import Parts
from enginery.builder.checkpoint.imports.packed_weight import packed_weight
from enginery.builder.checkpoint.imports.plain_weight import PlainWeight
from enginery.builder.checkpoint.imports.stored_weight import RawTensors, StoredWeight
from enginery.builder.checkpoint.imports.tensor_checks import TensorChecks
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES
from enginery.builder.errors import Problems

# The scale of keys or values is the attention's; older versions made it the projection's output's.
KV_SCALE = re.compile(r"^(.*\.self_attn\.)(?:([kv])_scale|([kv])_proj\.output_scale)$")
INPUT_ZERO_POINT = ".input_zero_point"
ZERO_POINT_DTYPES = ("I8",)


def read_compressed_tensors(fields: Fields) -> Format:
    """Reads a `quantization_config` whose `quant_method` is "compressed-tensors".

    Args:
        fields: its entries; what is not supported is noted there.
    """
    return CompressedTensorsFormat(read_scheme(fields), read_kv_cache_dtype(fields))


class CompressedTensorsFormat(Format):
    """The layout of compressed-tensors.

    Attributes:
        scheme: of all quantised modules; None after a problem.
    """

    def __init__(self, scheme: Scheme | None, kv_cache_dtype: str | None) -> None:
        qformat = "none" if scheme is None else scheme.qformat
        super().__init__("compressed-tensors", qformat, kv_cache_dtype)
        self.scheme = scheme

    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """See `Format`. Of packed weights it reads `weight_shape` and `weight_g_idx`."""
        assert self.scheme is not None
        suffix = ".weight_packed" if self.scheme.format == PACKED else ".weight"
        read = functools.partial(self._weight, self.scheme)
        return TensorChecks(raw, problems).weights(suffix, read)

    def renamed(self, raw: RawTensors) -> Mapping[str, str]:
        """The scales of the KV cache."""
        found: dict[str, str] = {}
        for name in raw.tensors:
            match = KV_SCALE.match(name)
            if match is not None:
                which = match[2] or match[3]
                found[f"{match[1]}{which}_proj.{which}_scale"] = name
        return found

    def surplus(self, raw: RawTensors) -> frozenset[str]:
        """Zero points of 0 that older versions wrote for symmetric activations."""
        return frozenset(
            name
            for name, info in raw.tensors.items()
            if name.endswith(INPUT_ZERO_POINT) and info.dtype in ("I8", "I32", "I64")
            if not raw.read(name).any()
        )

    def _weight(self, scheme: Scheme, checks: TensorChecks, module: str) -> StoredWeight | None:
        name = f"{module}.weight"
        if scheme.format == PACKED:
            return packed_weight(checks, name, scheme.weights)
        dtype = "I8" if scheme.weights.kind == "int" else "F8_E4M3"
        info = checks.raw.tensors[name]
        if info.dtype in VALUE_DTYPES and f"{name}_scale" not in checks.raw.tensors:
            return None  # a module that was not quantised
        shape = checks.matrix(name, (dtype,))
        if shape is None:
            return None
        grid = scheme.weights.grid(shape)
        shapes = grid.shapes(shape)
        is_good = checks.expect(f"{name}_scale", VALUE_DTYPES, *shapes)
        zero_point = f"{name}_zero_point"
        has_zero_points = not scheme.weights.is_symmetric
        has_tensor = has_zero_points or zero_point in checks.raw.tensors
        if has_tensor:
            is_good &= checks.expect(zero_point, ZERO_POINT_DTYPES, *shapes)
        if not is_good:
            return None
        return PlainWeight(
            checks.raw,
            Parts(name, f"{name}_scale", zero_point if has_tensor else None),
            dtype,
            shape,
            grid,
            has_zero_points=has_zero_points,
        )
