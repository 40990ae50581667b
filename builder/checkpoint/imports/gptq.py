# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of AutoGPTQ and GPTQModel: 4-bit codes in groups of inputs, packed along the inputs.

For a linear layer of `[N, K]` and groups of g inputs a module has

    qweight  int32 `[K / 8, N]`      codes from 0 to 15
    qzeros   int32 `[K / g, N / 8]`  zero points from 0 to 15; less 1 in format "gptq"
    scales   float `[K / g, N]`
    g_idx    int32 `[K]`             the group of each input

and real = (code - zero point) * scale. A word's codes follow each other from the lowest bits on.
Quantising in the order of activations (`desc_act`) puts inputs that are far apart into one group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.fields import Fields
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.group_index import is_consecutive
from enginery.builder.checkpoint.imports.grouped_weight import GroupedWeight, Parts, damaged
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

CHECKPOINT_FORMATS = ("gptq", "gptq_v2")
ONES = np.uint32(0x11111111)  # a 1 for each code of a word


def read_gptq(fields: Fields) -> Format:
    """Reads a `quantization_config` whose `quant_method` is "gptq".

    Args:
        fields: its entries; what is not supported is noted there.
    """
    bits = fields.integer("bits", low=1, high=32)
    if bits != 4 and fields.values.get("bits") == bits:
        fields.problems.add(f"{fields.prefix}bits", f"{bits} is not supported; 4 is")
    group_size = fields.integer("group_size", low=-1, high=1 << 24)
    if group_size == 0:
        fields.problems.add(
            f"{fields.prefix}group_size", "0 is not supported; -1 or a number above 0 is"
        )
    _refuse_variants(fields)
    return GptqFormat(
        max(group_size, 1) if group_size != -1 else -1,
        is_symmetric=fields.boolean("sym", default=True),
        is_reordered=fields.boolean("desc_act", default=False),
        is_v2=_checkpoint_format(fields) == "gptq_v2",
        carries=_was_written_by(fields, "gptqmodel"),
    )


def _checkpoint_format(fields: Fields) -> str:
    """The format, under either of its names; "gptq" where neither says it."""
    found = "gptq"
    for name in ("format", "checkpoint_format"):
        value = fields.string(name, default=found).lower()
        if value not in CHECKPOINT_FORMATS:
            accepted = ", ".join(CHECKPOINT_FORMATS)
            fields.problems.add(fields.prefix + name, f"{value!r} is not supported; {accepted} are")
        found = value
    return found


def _refuse_variants(fields: Fields) -> None:
    """Refuses what changes the layout or the arithmetic of some or all modules."""
    if fields.boolean("is_marlin_format", default=False):
        fields.problems.add(f"{fields.prefix}is_marlin_format", "is not supported")
    if fields.given("rotation"):
        rotation = fields.values["rotation"]
        fields.problems.add(f"{fields.prefix}rotation", f"{rotation!r} is not supported")
    # A pattern that begins with "-:" leaves modules as they are, which their tensors show too.
    changed = [key for key in fields.object("dynamic") if not key.startswith("-:")]
    if changed:
        fields.problems.add(
            f"{fields.prefix}dynamic",
            f"{changed[0]!r} quantises some modules otherwise, which is not supported",
        )


def _was_written_by(fields: Fields, tool: str) -> bool:
    """Whether `meta.quantizer`, one name with a version or a list of them, names the tool."""
    named = fields.object("meta").get("quantizer")
    tools = named if isinstance(named, list) else [named]
    return any(isinstance(name, str) and name.startswith(tool) for name in tools)


class GptqFormat(Format):
    """The layout of AutoGPTQ and GPTQModel.

    Attributes:
        group_size: inputs that share a scale; -1 is all.
        is_symmetric: whether all zero points are 8, as `sym` says.
        is_reordered: whether groups may be of any inputs, as `desc_act` says.
        is_v2: whether zero points are stored as they are.
        carries: of version 1, whether 1 was subtracted from whole words.
    """

    def __init__(
        self,
        group_size: int,
        *,
        is_symmetric: bool,
        is_reordered: bool,
        is_v2: bool,
        carries: bool,
    ) -> None:
        super().__init__("gptq", "int4_wo")
        self.group_size = group_size
        self.is_symmetric = is_symmetric
        self.is_reordered = is_reordered
        self.is_v2 = is_v2
        self.carries = carries

    def weights(self, raw: RawTensors, problems: Problems) -> dict[str, StoredWeight]:
        """See `Format`. Reads `g_idx`, and nothing else, to see which weights are in order."""
        return TensorChecks(raw, problems).weights(".qweight", self._weight)

    def surplus(self, raw: RawTensors) -> frozenset[str]:
        """Biases of zeros, which AutoGPTQ writes for layers that have none.

        A layer that has a bias may have one of zeros: it is among them, and is read all the same.
        """
        biases = {
            name.removesuffix("qweight") + "bias"
            for name in raw.tensors
            if name.endswith(".qweight")
        }
        return frozenset(name for name in biases & raw.tensors.keys() if _is_zero(raw, name))

    def _weight(self, checks: TensorChecks, module: str) -> StoredWeight | None:
        parts = ("qweight", "scales", "qzeros", "g_idx")
        codes, scales, zeros, index = (f"{module}.{part}" for part in parts)
        packed = checks.matrix(codes, ("I32",))
        if packed is None:
            return None
        depth, width = packed[0] * CODES_PER_WORD, packed[1]
        size = depth if self.group_size == -1 else min(self.group_size, depth)
        num_groups = -(-depth // size)
        is_good = checks.expect(scales, VALUE_DTYPES, (num_groups, width))
        is_good &= checks.expect(zeros, ("I32",), (num_groups, -(-width // CODES_PER_WORD)))
        is_ordered: bool | None = True
        has_index = self.is_reordered or index in checks.raw.tensors
        if has_index:
            # Kernels that ignore g_idx read such a checkpoint in order, so zeros may fill it.
            unset = None if self.is_reordered else 0
            is_ordered = is_consecutive(checks, index, depth, size, unset=unset)
        if not is_good or is_ordered is None:
            return None
        read_again = index if has_index and not is_ordered else None
        others = (index,) if has_index and is_ordered else ()
        return GptqWeight(
            checks.raw,
            Parts(codes, scales, zeros, read_again, others),
            (width, depth),
            size,
            self,
        )


class GptqWeight(GroupedWeight):
    """A weight that lies transposed, its inputs packed in order."""

    def __init__(
        self,
        raw: RawTensors,
        parts: Parts,
        shape: tuple[int, int],
        group_size: int,
        layout: GptqFormat,
    ) -> None:
        has_zero_points = not layout.is_symmetric
        super().__init__(raw, parts, "I4", shape, group_size, has_zero_points=has_zero_points)
        self.layout = layout

    def read_codes(self, rows: Interval, columns: Interval) -> npt.NDArray[Any]:
        """See `GroupedWeight`."""
        words, inside = words_of(columns)
        packed = self.raw.read(self.parts.codes, words, slice(*rows))
        return centred(unpack_nibbles(packed.T)[:, inside], 4)

    def read_scale(self, rows: Interval, groups: Interval) -> FloatArray:
        """See `GroupedWeight`."""
        scale = read_values(self.raw, self.parts.scale, slice(*groups), slice(*rows))
        return np.ascontiguousarray(scale.T)

    def read_zero_point(self, rows: Interval, groups: Interval) -> npt.NDArray[np.int8]:
        """See `GroupedWeight`.

        Raises:
            CheckpointError: zero points of version 1 are not the same to all who read them.
        """
        assert self.parts.zero_point is not None
        words, inside = words_of(rows)
        packed = self.raw.read(self.parts.zero_point, slice(*groups), words)
        zeros = unpack_nibbles(packed)[:, inside]
        if not self.layout.is_v2:
            zeros = self._less_one_restored(zeros, packed, inside)
        return np.ascontiguousarray(centred(zeros, 4).T)

    def _less_one_restored(
        self, stored: npt.NDArray[np.uint8], packed: npt.NDArray[np.int32], inside: slice
    ) -> npt.NDArray[np.uint8]:
        """Zero points of version 1, from 0 to 15.

        A zero point of 0 wraps around to 15. GPTQModel subtracts from whole words, so that it also
        borrows from the code above; AutoGPTQ looks at each code by itself.
        """
        by_word = unpack_nibbles((packed.view(np.uint32) + ONES).view(np.int32))[:, inside]
        if self.layout.carries:
            return by_word
        by_code = (stored + np.uint8(1)) & np.uint8(15)
        if not np.array_equal(by_code, by_word):
            assert self.parts.zero_point is not None
            raise damaged(
                self.parts.zero_point,
                "holds a zero point of 0, of which checkpoint_format 'gptq' has two readings",
                "save the checkpoint again with checkpoint_format 'gptq_v2'",
            )
        return by_code


def _is_zero(raw: RawTensors, name: str) -> bool:
    return raw.tensors[name].dtype in VALUE_DTYPES and not read_values(raw, name).any()
