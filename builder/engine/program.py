# SPDX-License-Identifier: Apache-2.0
"""The `program` section: what a rank does in one step, and its encoding (docs/engine-format.md)."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PROGRAM_MAGIC = 0x4D475250  # "PRGM"
PROGRAM_VERSION = 1
MAX_RANK = 4
TENSOR_ALIGNMENT = 64
PANEL = 16  # output channels in a panel of the packed layouts

ITEM_BYTES = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1, "i32": 4, "f8e4m3": 1}
INT4 = "i4"  # of tensors alone: two per byte
# layout -> K elements that stand together, and the dtypes it is used for
GROUPS = {
    "n16k1": (1, ("f32", "i8")),
    "n16k2": (2, ("bf16", "f8e4m3")),
    "n16k4": (4, ("i8",)),
    "n16k8": (8, (INT4,)),
}

Attribute = int | float | str | tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True)
class Tensor:
    """A constant of the program.

    Attributes:
        name: unique in the program.
        dtype: a key of `ITEM_BYTES`, or `INT4`.
        layout: "rows" or a key of `GROUPS`.
        shape: logical shape.
    """

    name: str
    dtype: str
    layout: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """What dtype, layout and shape imply, padding included."""
        if self.layout == "rows":
            assert self.dtype != INT4 or self.shape[-1] % 2 == 0
            num_elements = math.prod(self.shape)
        else:
            group, dtypes = GROUPS[self.layout]
            assert self.dtype in dtypes
            num_rows, depth = self.shape
            num_elements = -(-num_rows // PANEL) * PANEL * -(-depth // group) * group
        return num_elements // 2 if self.dtype == INT4 else num_elements * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Buffer:
    """A value of the program: scratch memory `[rows, columns]` ("tokens" or "logits" rows)."""

    name: str
    dtype: str
    rows: str
    columns: int


Operand = Tensor | Buffer | None


@dataclass(frozen=True)
class Step:
    """One operation of the program, with operands by reference."""

    op: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Buffer, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True)
class Program:
    """Attributes, tensors in file order, buffers and steps of one rank."""

    attributes: Mapping[str, Attribute]
    tensors: tuple[Tensor, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]

    def tensor_offsets(self) -> tuple[int, ...]:
        """Offset of each tensor in the section that holds them: in order, aligned."""
        offsets, position = [], 0
        for tensor in self.tensors:
            offsets.append(position)
            position += -(-tensor.num_bytes // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
        return tuple(offsets)

    def weight_bytes(self) -> int:
        """Size of the section that holds the tensors."""
        if not self.tensors:
            return 0
        return self.tensor_offsets()[-1] + self.tensors[-1].num_bytes

    def encode(self, weights_section: int) -> bytes:
        """Returns the section's bytes.

        Args:
            weights_section: index in the section table of the section that holds the tensors.
        """
        return _Encoder(self, weights_section).encode()


class _Encoder:
    """Fills the tables of the section; strings are stored once each."""

    def __init__(self, program: Program, weights_section: int) -> None:
        self.program = program
        self.weights_section = weights_section
        self._strings: dict[str, tuple[int, int]] = {}
        self._string_bytes = bytearray()
        self._array_bytes = bytearray()
        self._tensor_index = {tensor: index for index, tensor in enumerate(program.tensors)}
        self._buffer_index = {buffer: index for index, buffer in enumerate(program.buffers)}

    def encode(self) -> bytes:
        program = self.program
        attributes = self._attributes(program.attributes)
        num_attributes = len(program.attributes)
        steps, operands = bytearray(), bytearray()
        num_operands, total_attributes = 0, num_attributes
        for step in program.steps:
            steps += struct.pack(
                "<2I6I16x",
                *self._string(step.op),
                step.version,
                num_operands,
                len(step.inputs),
                len(step.outputs),
                total_attributes,
                len(step.attributes),
            )
            for operand in (*step.inputs, *step.outputs):
                operands += self._operand(operand)
            attributes += self._attributes(step.attributes)
            num_operands += len(step.inputs) + len(step.outputs)
            total_attributes += len(step.attributes)
        tensors = b"".join(
            self._tensor(tensor, offset)
            for tensor, offset in zip(program.tensors, program.tensor_offsets(), strict=True)
        )
        buffers = b"".join(self._buffer(buffer) for buffer in program.buffers)
        self._string_bytes += bytes(-len(self._string_bytes) % 8)
        header = struct.pack(
            "<8I2Q16x",
            PROGRAM_MAGIC,
            PROGRAM_VERSION,
            num_attributes,
            total_attributes,
            len(program.tensors),
            len(program.buffers),
            len(program.steps),
            num_operands,
            len(self._string_bytes),
            len(self._array_bytes),
        )
        tables = header + attributes + tensors + buffers + steps + operands
        return bytes(tables + self._string_bytes + self._array_bytes)

    def _string(self, text: str) -> tuple[int, int]:
        if text not in self._strings:
            encoded = text.encode()
            self._strings[text] = (len(self._string_bytes), len(encoded))
            self._string_bytes += encoded
        return self._strings[text]

    def _attributes(self, attributes: Mapping[str, Attribute]) -> bytearray:
        encoded = bytearray()
        for name, value in attributes.items():
            kind, payload, count = self._attribute_value(value)
            encoded += struct.pack("<2III8sQ", *self._string(name), kind, 0, payload, count)
        return encoded

    def _attribute_value(self, value: Attribute) -> tuple[int, bytes, int]:
        if isinstance(value, int):
            return 1, struct.pack("<q", value), 1
        if isinstance(value, float):
            return 2, struct.pack("<d", value), 1
        if isinstance(value, str):
            return 3, struct.pack("<2I", *self._string(value)), 1
        is_integers = all(isinstance(item, int) for item in value)
        offset = len(self._array_bytes)
        self._array_bytes += struct.pack(f"<{len(value)}{'q' if is_integers else 'd'}", *value)
        return 4 if is_integers else 5, struct.pack("<Q", offset), len(value)

    def _tensor(self, tensor: Tensor, offset: int) -> bytes:
        shape: Sequence[int] = (*tensor.shape, *(0,) * (MAX_RANK - len(tensor.shape)))
        return struct.pack(
            "<6I2I2Q4Q16x",
            *self._string(tensor.name),
            *self._string(tensor.dtype),
            *self._string(tensor.layout),
            len(tensor.shape),
            self.weights_section,
            offset,
            tensor.num_bytes,
            *shape,
        )

    def _buffer(self, buffer: Buffer) -> bytes:
        return struct.pack(
            "<6IQ16x",
            *self._string(buffer.name),
            *self._string(buffer.dtype),
            *self._string(buffer.rows),
            buffer.columns,
        )

    def _operand(self, operand: Operand) -> bytes:
        if operand is None:
            return struct.pack("<2I", 2, 0)
        if isinstance(operand, Tensor):
            return struct.pack("<2I", 1, self._tensor_index[operand])
        return struct.pack("<2I", 0, self._buffer_index[operand])
