# SPDX-License-Identifier: Apache-2.0
"""Weights in the format "pack-quantized" of compressed-tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.imports.compressed_tensors_config import Args
from enginery.builder.checkpoint.imports.group_index import is_consecutive
from enginery.builder.checkpoint.imports.grouped_weight import Parts
from enginery.builder.checkpoint.imports.packing import centred, unpack_nibbles, words_of
from enginery.builder.checkpoint.imports.plain_weight import Grid, PlainWeight
from enginery.builder.checkpoint.imports.stored_weight import Interval, RawTensors, StoredWeight
from enginery.builder.checkpoint.imports.tensor_checks import TensorChecks
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES

UNSET_GROUP = -1  # fills weight_g_idx where groups are consecutive


def packed_weight(checks: TensorChecks, name: str, args: Args) -> StoredWeight | None:
    """Checks the tensors of a packed weight; None after a problem.

    Args:
        checks: of the checkpoint.
        name: that the weight had unquantised.
        args: how it is quantised; of 4 or 8 bits.
    """
    codes, scale, zero_point = (f"{name}_{part}" for part in ("packed", "scale", "zero_point"))
    shape = _shape(checks, name, args.num_bits)
    if shape is None:
        return None
    grid = args.grid(shape)
    num_groups = grid.counts(shape)[1]
    is_good = checks.expect(scale, VALUE_DTYPES, *grid.shapes(shape))
    has_tensor = not args.is_symmetric or zero_point in checks.raw.tensors
    if has_tensor:
        is_good &= _check_zero_point(checks, zero_point, shape[0], num_groups, args.num_bits)
    index, is_ordered = f"{name}_g_idx", True
    has_index = args.is_reordered or index in checks.raw.tensors
    if has_index:
        ordered = is_consecutive(checks, index, shape[1], grid.columns, unset=UNSET_GROUP)
        is_good &= ordered is not None
        is_ordered = bool(ordered)
    if not is_good:
        return None
    others = (f"{name}_shape", *((index,) if has_index and is_ordered else ()))
    return PackedWeight(
        checks.raw,
        Parts(
            codes,
            scale,
            zero_point if has_tensor else None,
            None if is_ordered else index,
            others,
        ),
        "I4" if args.num_bits == 4 else "I8",
        shape,
        grid,
        has_zero_points=not args.is_symmetric,
    )


def _shape(checks: TensorChecks, name: str, num_bits: int) -> tuple[int, int] | None:
    """What `weight_shape` says, if the codes that there are fill just that."""
    packed = checks.matrix(f"{name}_packed", ("I32",))
    is_good = checks.expect(f"{name}_shape", ("I64", "I32"), (2,))
    if packed is None or not is_good:
        return None
    num_rows, depth = (int(size) for size in checks.raw.read(f"{name}_shape"))
    per_word = 32 // num_bits
    if num_rows != packed[0] or depth < 1 or -(-depth // per_word) != packed[1]:
        checks.problems.add(
            f"{name}_shape",
            f"says [{num_rows}, {depth}], which {num_bits}-bit codes in int32 "
            f"{list(packed)} are not",
        )
        return None
    return num_rows, depth


def _check_zero_point(
    checks: TensorChecks, name: str, num_rows: int, num_groups: int, num_bits: int
) -> bool:
    """Zero points are packed; early versions stored them as they are."""
    is_plain = name in checks.raw.tensors and checks.raw.tensors[name].dtype == "I8"
    if is_plain:
        return checks.expect(name, ("I8",), (num_rows, num_groups))
    num_words = -(-num_rows // (32 // num_bits))
    return checks.expect(name, ("I32",), (num_words, num_groups))


class PackedWeight(PlainWeight):
    """A weight whose codes are packed along the inputs, its zero points along the outputs."""

    def __init__(
        self,
        raw: RawTensors,
        parts: Parts,
        dtype: str,
        shape: tuple[int, int],
        grid: Grid,
        *,
        has_zero_points: bool = False,
    ) -> None:
        super().__init__(raw, parts, dtype, shape, grid, has_zero_points=has_zero_points)
        self.num_bits = 4 if dtype == "I4" else 8

    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        """See `GroupedWeight`."""
        words, inside = words_of(columns, 32 // self.num_bits)
        return self._unpacked(self.raw.read(self.parts.codes, slice(*rows), words))[:, inside]

    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """See `GroupedWeight`."""
        assert self.parts.zero_point is not None
        if self.raw.tensors[self.parts.zero_point].dtype == "I8":
            return super().read_zero_point(rows, groups)
        words, inside = words_of(rows, 32 // self.num_bits)
        packed = self.raw.read(self.parts.zero_point, words, slice(*groups))
        return np.ascontiguousarray(self._unpacked(packed.T)[:, inside].T)

    def _unpacked(self, words: npt.NDArray[np.int32]) -> npt.NDArray[np.int8]:
        if self.num_bits == 4:
            return centred(unpack_nibbles(words), 4)
        return centred(np.ascontiguousarray(words).view(np.uint8), 8)
