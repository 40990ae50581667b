# SPDX-License-Identifier: Apache-2.0
"""Reads the members of section `segments`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from .archive import invalid
from .device import ELEMENT_BITS
from .image import OperandImage, SegmentImage
from .record import Record

VERSION = 1
ROWS = ("tokens", "logits")
DTYPES = tuple(dtype for dtype in ELEMENT_BITS if dtype != "i64")
MAX_DIMENSION = 2**31 - 1


def member(members: Mapping[str, bytes], name: str, path: str) -> bytes:
    """A member of an archive that a record names.

    Raises:
        EngineFileError: there is none of that name.
    """
    if name not in members:
        raise invalid(path, f"the archive has no member {name!r}")
    return members[name]


def read_segments(members: Mapping[str, bytes], path: str) -> dict[str, SegmentImage]:
    """Returns the segments by name.

    Args:
        members: of the archive.
        path: begins the paths in errors.

    Raises:
        EngineFileError: a field is not what the format says, or an ONNX file has another hash.
    """
    root = Record.parse(member(members, "segments.json", path), path)
    root.integer("version", VERSION, VERSION)
    return {
        name: _segment(name, record, members) for name, record in root.record("segments").items()
    }


def _segment(name: str, record: Record, members: Mapping[str, bytes]) -> SegmentImage:
    onnx = member(members, record.string("onnx"), f"{record.path}.onnx")
    digest = record.sha256("onnx_sha256")
    if hashlib.sha256(onnx).hexdigest() != digest:
        raise record.fail("onnx_sha256", "the hash of the member that `onnx` names")
    inputs = tuple(_operand(entry, entry.string("kind", ("value", "tensor")) == "value")
                   for entry in record.records("inputs"))  # fmt: skip
    outputs = tuple(_operand(entry, True) for entry in record.records("outputs"))
    names = [operand.name for operand in (*inputs, *outputs)]
    if len(set(names)) != len(names):
        raise invalid(record.path, "inputs and outputs have a name twice")
    values = [operand for operand in (*inputs, *outputs) if operand.is_value]
    if not outputs or len({operand.rows for operand in values}) != 1:
        raise invalid(record.path, "values of tokens and of logits in one segment, or no output")
    return SegmentImage(name, onnx, digest, inputs, outputs)


def _operand(record: Record, is_value: bool) -> OperandImage:
    name, dtype = record.name("name"), record.string("dtype", DTYPES)
    shape: list[Any] = record.array("shape")
    rows = None
    if is_value:
        if len(shape) != 2 or shape[0] not in ROWS:
            raise record.fail("shape", 'a value\'s ["tokens" or "logits", columns]')
        rows = shape[0]
        shape = shape[1:]
    is_size = [type(size) is int and 1 <= size <= MAX_DIMENSION for size in shape]
    if not 1 <= len(shape) <= 4 or not all(is_size):
        raise record.fail("shape", "1 to 4 positive integers")
    return OperandImage(name, is_value, dtype, tuple(shape), rows)
