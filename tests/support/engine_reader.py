# SPDX-License-Identifier: Apache-2.0
"""A second reader of engine files, written from docs/engine-format.md alone, for tests.

It shares no code with the writer, so that a misreading of the format shows as a failed test. It
trusts its input: the reader for files from anywhere is the C++ one.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "bf16": np.dtype("<u2"),
    "f16": np.dtype("<f2"),
    "i8": np.dtype("i1"),
    "i32": np.dtype("<i4"),
    "f8e4m3": np.dtype("u1"),
    "i4": np.dtype("i1"),
}
VALUE_DTYPES = ("f32", "bf16", "f16", "i8")
HEADER_FIELDS = (
    "magic", "format_version", "header_bytes", "file_bytes", "num_sections",
    "section_entry_bytes", "section_table_offset", "target", "sku", "variant", "tp_size",
    "tp_rank", "pp_size", "pp_rank", "builder_version", "reserved", "checksum",
)  # fmt: skip


@dataclass(frozen=True)
class SectionEntry:
    name: str
    offset: int
    num_bytes: int
    alignment: int
    flags: int
    sha256: bytes


@dataclass(frozen=True)
class TensorRecord:
    """A constant; `array` is its logical array, unpacked (bf16, f8e4m3 as bits; i4 as int8)."""

    name: str
    dtype: str
    layout: str
    shape: tuple[int, ...]
    section: int
    offset: int
    num_bytes: int
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class ValueRecord:
    name: str
    dtype: str
    rows: str
    columns: int


Reference = TensorRecord | ValueRecord | None


@dataclass(frozen=True)
class StepRecord:
    op: str
    version: int
    inputs: tuple[Reference, ...]
    outputs: tuple[ValueRecord, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Engine:
    header: dict[str, Any]
    sections: list[SectionEntry]
    attributes: dict[str, Any]
    tensors: list[TensorRecord]
    values: list[ValueRecord]
    steps: list[StepRecord]
    tokens: list[tuple[bytes, int]]

    def tensor(self, name: str) -> TensorRecord:
        return {tensor.name: tensor for tensor in self.tensors}[name]

    def describe(self) -> dict[str, Any]:
        """What `enginery_engine_describe_json` says of such a file."""

        def name(reference: Reference) -> str | None:
            return None if reference is None else reference.name

        hidden = ("magic", "reserved")
        header = {key: value for key, value in self.header.items() if key not in hidden}
        return {
            "header": header | {"checksum": self.header["checksum"].hex()},
            "sections": [
                {
                    "name": section.name,
                    "offset": section.offset,
                    "bytes": section.num_bytes,
                    "alignment": section.alignment,
                    "flags": section.flags,
                    "sha256": section.sha256.hex(),
                }
                for section in self.sections
            ],
            "attributes": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in self.attributes.items()
            },
            "tensors": [
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "layout": tensor.layout,
                    "shape": list(tensor.shape),
                    "section": tensor.section,
                    "offset": tensor.offset,
                    "bytes": tensor.num_bytes,
                }
                for tensor in self.tensors
            ],
            "values": [
                {"name": v.name, "dtype": v.dtype, "rows": v.rows, "columns": v.columns}
                for v in self.values
            ],
            "steps": [
                {
                    "op": step.op,
                    "version": step.version,
                    "inputs": [name(operand) for operand in step.inputs],
                    "outputs": [name(operand) for operand in step.outputs],
                    "attributes": step.attributes,
                }
                for step in self.steps
            ],
        }


def read_engine(path: Path) -> Engine:
    """Reads all of an engine file, asserting what the format demands of it."""
    data = path.read_bytes()
    header = dict(
        zip(HEADER_FIELDS, struct.unpack("<8sIIQIIQ32s32s32s4I32s40s32s", data[:256]), strict=True)
    )
    assert header["magic"] == b"ENGINERY"
    assert (header["format_version"], header["header_bytes"]) == (1, 256)
    assert header["file_bytes"] == len(data)
    assert (header["section_entry_bytes"], header["section_table_offset"]) == (128, 256)
    assert header["reserved"] == bytes(40)
    for name in ("target", "sku", "variant", "builder_version"):
        header[name] = _text(header[name])
    table_end = 256 + 128 * header["num_sections"]
    assert hashlib.sha256(data[:224] + data[256:table_end]).digest() == header["checksum"]

    sections = []
    end = table_end
    for begin in range(256, table_end, 128):
        name, offset, size, alignment, flags, reserved, digest = struct.unpack(
            "<48sQQII24s32s", data[begin : begin + 128]
        )
        assert reserved == bytes(24)
        assert offset % alignment == 0 and offset >= end and alignment >= 64
        assert not any(data[end:offset]), "gaps are zero"
        end = offset + size
        assert hashlib.sha256(data[offset:end]).digest() == digest
        sections.append(SectionEntry(_text(name), offset, size, alignment, flags, digest))
    assert end == len(data)
    by_name = {section.name: section for section in sections}
    for name in ("program", "token_bytes"):
        assert by_name[name].flags == 1
    program = by_name["program"]
    attributes, tensors, values, steps = _read_program(
        data[program.offset : program.offset + program.num_bytes], data, sections
    )
    token_bytes = by_name["token_bytes"]
    tokens = _read_tokens(data[token_bytes.offset : token_bytes.offset + token_bytes.num_bytes])
    return Engine(header, sections, attributes, tensors, values, steps, tokens)


def _text(field: bytes) -> str:
    text, _, padding = field.partition(b"\0")
    assert not any(padding) and len(text) < len(field)
    return text.decode("ascii")


def _read_program(
    section: bytes, data: bytes, sections: list[SectionEntry]
) -> tuple[dict[str, Any], list[TensorRecord], list[ValueRecord], list[StepRecord]]:
    (
        magic, version, num_attributes, total_attributes, num_tensors, num_values, num_steps,
        num_operands, string_bytes, array_bytes, reserved,
    ) = struct.unpack("<8I2Q16s", section[:64])  # fmt: skip
    assert (magic, version, reserved) == (0x4D475250, 1, bytes(16))
    assert string_bytes % 8 == 0 and array_bytes % 8 == 0
    counts = (total_attributes, num_tensors, num_values, num_steps, num_operands)
    starts = [64]
    for count, size in zip(counts, (32, 96, 48, 48, 8), strict=True):
        starts.append(starts[-1] + count * size)
    strings_begin = starts[-1]
    arrays_begin = strings_begin + string_bytes
    assert arrays_begin + array_bytes == len(section)

    def string(offset: int, length: int) -> str:
        assert offset + length <= string_bytes
        return section[strings_begin + offset : strings_begin + offset + length].decode()

    def attribute(index: int) -> tuple[str, Any]:
        begin = starts[0] + 32 * index
        offset, length, kind, zero = struct.unpack("<4I", section[begin : begin + 16])
        value, count = section[begin + 16 : begin + 24], section[begin + 24 : begin + 32]
        (count,) = struct.unpack("<Q", count)
        assert zero == 0
        name = string(offset, length)
        if kind in (1, 2):
            assert count == 1
            return name, struct.unpack("<q" if kind == 1 else "<d", value)[0]
        if kind == 3:
            assert count == 1
            return name, string(*struct.unpack("<2I", value))
        (array,) = struct.unpack("<Q", value)
        assert kind in (4, 5) and array + 8 * count <= array_bytes
        items = section[arrays_begin + array : arrays_begin + array + 8 * count]
        return name, struct.unpack(f"<{count}{'q' if kind == 4 else 'd'}", items)

    tensors = []
    for index in range(num_tensors):
        begin = starts[1] + 96 * index
        fields = struct.unpack("<6I2I2Q4Q16s", section[begin : begin + 96])
        name, dtype, layout = (string(*fields[i : i + 2]) for i in (0, 2, 4))
        rank, section_index, offset, size = fields[6:10]
        shape = fields[10 : 10 + rank]
        assert 1 <= rank <= 4 and not any(fields[10 + rank : 14]) and fields[14] == bytes(16)
        assert offset % 64 == 0 and offset + size <= sections[section_index].num_bytes
        start = sections[section_index].offset + offset
        array = _unpack(data[start : start + size], dtype, layout, shape)
        tensors.append(TensorRecord(name, dtype, layout, shape, section_index, offset, size, array))
    values = []
    for index in range(num_values):
        begin = starts[2] + 48 * index
        fields = struct.unpack("<6IQ16s", section[begin : begin + 48])
        name, dtype, rows = (string(*fields[i : i + 2]) for i in (0, 2, 4))
        assert rows in ("tokens", "logits") and fields[7] == bytes(16) and dtype in VALUE_DTYPES
        values.append(ValueRecord(name, dtype, rows, fields[6]))

    def operand(index: int) -> Reference:
        begin = starts[4] + 8 * index
        kind, target = struct.unpack("<2I", section[begin : begin + 8])
        return (values, tensors)[kind][target] if kind < 2 else None

    steps = []
    next_operand, next_attribute = 0, num_attributes
    for index in range(num_steps):
        begin = starts[3] + 48 * index
        fields = struct.unpack("<8I16s", section[begin : begin + 48])
        first_operand, num_inputs, num_outputs, first_attribute, count = fields[3:8]
        assert (first_operand, first_attribute) == (next_operand, next_attribute)
        next_operand += num_inputs + num_outputs
        next_attribute += count
        inputs = tuple(operand(first_operand + i) for i in range(num_inputs))
        outputs = tuple(operand(first_operand + num_inputs + i) for i in range(num_outputs))
        assert all(isinstance(output, ValueRecord) for output in outputs)
        steps.append(
            StepRecord(
                string(*fields[:2]),
                fields[2],
                inputs,
                outputs,  # type: ignore[arg-type]
                dict(attribute(first_attribute + i) for i in range(count)),
            )
        )
    assert (next_operand, next_attribute) == (num_operands, total_attributes)
    attributes = dict(attribute(i) for i in range(num_attributes))
    assert len(attributes) == num_attributes
    return attributes, tensors, values, steps


def _unpack(stored: bytes, dtype: str, layout: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    item: np.dtype[Any] = NUMPY_DTYPES[dtype]
    items = np.frombuffer(stored, item)
    if dtype == "i4" and layout == "n16k8":
        return _unpack_n16k8(stored, *shape)
    if dtype == "i4":
        assert layout == "rows" and shape[-1] % 2 == 0
        pairs: npt.NDArray[Any] = np.stack([np.left_shift(items, 4) >> 4, items >> 4], axis=-1)
        return pairs.reshape(shape)
    if layout == "rows":
        return items.reshape(shape)
    group = {"n16k1": 1, "n16k2": 2, "n16k4": 4}[layout]
    num_rows, depth = shape
    num_groups = -(-depth // group)
    n, k = np.meshgrid(np.arange(num_rows), np.arange(depth), indexing="ij")
    positions = (((n // 16) * num_groups + k // group) * 16 + n % 16) * group + k % group
    assert items.size == -(-num_rows // 16) * num_groups * 16 * group
    is_padding = np.ones(items.size, bool)
    is_padding[positions.ravel()] = False
    padding = 1 if (dtype, layout) == ("i8", "n16k1") else 0
    assert (items[is_padding] == padding).all(), "padding is zero, but of scales of groups one"
    unpacked: npt.NDArray[Any] = items[positions]
    return unpacked


def _unpack_n16k8(stored: bytes, num_rows: int, depth: int) -> npt.NDArray[np.int8]:
    num_panels, num_groups = -(-num_rows // 16), -(-depth // 8)
    packed = np.frombuffer(stored, np.uint8)
    assert packed.size == num_panels * num_groups * 16 * 4
    n, k = np.meshgrid(np.arange(num_panels * 16), np.arange(num_groups * 8), indexing="ij")
    positions = ((n // 16 * num_groups + k // 8) * 16 + n % 16) * 4 + k % 4
    codes = (packed[positions] >> np.where(k % 8 < 4, 0, 4) & 15).astype(np.int8) - np.int8(8)
    assert not codes[num_rows:].any() and not codes[:, depth:].any(), "padding is the code 0"
    unpacked: npt.NDArray[np.int8] = codes[:num_rows, :depth]
    return unpacked


def _read_tokens(section: bytes) -> list[tuple[bytes, int]]:
    num_tokens, zero, data_bytes = struct.unpack("<2IQ", section[:16])
    assert zero == 0
    flags_begin = 16 + 4 * (num_tokens + 1)
    offsets = struct.unpack(f"<{num_tokens + 1}I", section[16:flags_begin])
    data_begin = flags_begin + num_tokens
    end = data_begin + data_bytes
    assert offsets[0] == 0 and offsets[-1] == data_bytes and list(offsets) == sorted(offsets)
    assert len(section) == end + (-end % 8) and not any(section[end:])
    return [
        (
            section[data_begin + offsets[i] : data_begin + offsets[i + 1]],
            section[flags_begin + i],
        )
        for i in range(num_tokens)
    ]
