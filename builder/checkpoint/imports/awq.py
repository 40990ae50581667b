# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of AutoAWQ: 4-bit codes in groups of inputs, packed along the outputs.

For a linear layer of `[N, K]` and groups of g inputs a module has

    qweight  int32 `[K, N / 8]`      codes from 0 to 15
    qzeros   int32 `[K / g, N / 8]`  zero points from 0 to 15
    scales   float `[K / g, N]`

and real = (code - zero point) * scale. The eight codes of a word are, from the lowest bits on,
those of outputs 0, 2, 4, 6, 1, 3, 5, 7: the order in which AutoAWQ's "gemm" kernel unpacks them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.grouped_weight import GroupedWeight, Parts
from enginery.builder.checkpoint.imports.packing import (
    CODES_PER_WORD,
    centred,
    unpack_nibbles,
    words_of,
)
from enginery.builder.checkpoint.imports.stored_weight import (
    FloatArray,
    Interval,
    RawTensors,
    StoredWeight,
)
from enginery.builder.checkpoint.imports.tensor_checks import TensorChecks
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES, read_values
from enginery.builder.errors import Problems

GROUP_SIZES = (128, 64, 32, -1)
# Where a word keeps the code of each output: the inverse of 0, 2, 4, 6, 1, 3, 5, 7.
NIBBLE_OF_OUTPUT = np.array([0, 4, 1, 5, 2, 6, 3, 7])


def read_awq(fields: Fields) -> Format:
    """Reads a `quantization_config` whose `quant_method` is "awq".

    Args:
        fields: its entries; what is not supported is noted there.
    """
    bits = fields.integer("bits", low=1, high=32, default=4)
    if bits != 4 and fields.values.get("bits") == bits:
        fields.problems.add(f"{fields.prefix}bits", f"{bits} is not supported; 4 is")
    # Newer writers call the version `format` or `checkpoint_format`.
    for name in ("version", "format", "checkpoint_format"):
        version = fields.string(name, default="gemm")
        if version.lower() != "gemm":
            fields.problems.add(
                fields.prefix + name,
                f"{version!r} is not supported; 'gemm' is",
                "pack the checkpoint again as gemm, or give the original one",
            )
    if fields.values.get("backend") == "llm-awq":
        fields.problems.add(f"{fields.prefix}backend", "'llm-awq' is not supported")
    group_size = fields.integer("group_size", low=-1, high=1 << 24, default=128)
    if group_size not in GROUP_SIZES:
        accepted = ", ".join(map(str, GROUP_SIZES))
        fields.problems.add(
            f"{fields.prefix}group_size", f"{group_size} is not supported; {accepted} are"
        )
    return AwqFormat(group_size, has_zero_points=fields.boolean("zero_point", default=True))


class AwqFormat(Format):
    """AutoAWQ's layout, version "gemm".

    Attributes:
        group_size: inputs that share a scale; -1 is all.
        has_zero_points: whether zero points may differ from 8, as `zero_point` says.
    """

    def __init__(self, group_size: int, *, has_zero_points: bool) -> None:
        super().__init__("awq", "int4_awq")
        self.group_size = group_size
        self.has_zero_points = has_zero_points

    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """See `Format`."""
        return TensorChecks(raw, problems).weights(".qweight", self._weight)

    def _weight(self, checks: TensorChecks, module: str) -> StoredWeight | None:
        codes, scales, zeros = (f"{module}.{part}" for part in ("qweight", "scales", "qzeros"))
        packed = checks.matrix(codes, ("I32",))
        if packed is None:
            return None
        depth, words = packed
        size = depth if self.group_size == -1 else self.group_size
        num_groups = -(-depth // size)
        width = words * CODES_PER_WORD
        is_good = checks.expect(scales, VALUE_DTYPES, (num_groups, width))
        has_tensor = self.has_zero_points or zeros in checks.raw.tensors
        if has_tensor:
            is_good &= checks.expect(zeros, ("I32",), (num_groups, words))
        if not is_good:
            return None
        return AwqWeight(
            checks.raw,
            Parts(codes, scales, zeros if has_tensor else None),
            "I4",
            (width, depth),
            size,
            has_zero_points=self.has_zero_points,
        )


class AwqWeight(GroupedWeight):
    """A weight that lies transposed, its outputs packed in AutoAWQ's order."""

    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        """See `GroupedWeight`."""
        return self._unpacked(self.parts.codes, rows, columns)

    def read_scale(self, rows: Interval, groups: Interval) -> FloatArray:
        """See `GroupedWeight`."""
        scale = read_values(self.raw, self.parts.scale, slice(*groups), slice(*rows))
        return np.ascontiguousarray(scale.T)

    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """See `GroupedWeight`."""
        assert self.parts.zero_point is not None
        return self._unpacked(self.parts.zero_point, rows, groups)

    def _unpacked(self, name: str, rows: Interval, columns: Interval) -> npt.NDArray[np.int8]:
        words, inside = words_of(rows)
        nibbles = unpack_nibbles(self.raw.read(name, slice(*columns), words))
        by_word = nibbles.reshape(len(nibbles), -1, CODES_PER_WORD)
        outputs = by_word[..., NIBBLE_OF_OUTPUT].reshape(len(nibbles), -1)
        return centred(np.ascontiguousarray(outputs[:, inside].T), 4)
