# SPDX-License-Identifier: Apache-2.0
"""A reader of safetensors files: memory-mapped, with nothing in the file believed unchecked.

Layout: u64 header length, that many bytes of JSON, then the tensors' bytes. The JSON gives for each
tensor its dtype, shape and half-open byte interval; together the intervals tile the data exactly.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.fields import unique_keys
from enginery.builder.errors import CheckpointError, Problem, Problems

MAX_HEADER_BYTES = 100 << 20
MAX_RANK = 8

# dtype name -> how numpy holds its elements. bfloat16 and FP8 are held as bit patterns.
STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
# Sizes of the other dtypes, so that a file that also holds them can still be checked.
OTHER_ITEM_BYTES = {"F64": 8, "U64": 8, "U32": 4, "I16": 2, "U16": 2, "BOOL": 1, "F8_E5M2": 1}


class TensorEntry(NamedTuple):
    """One tensor of a file.

    Attributes:
        dtype: the format's name, e.g. "BF16".
        shape: its dimensions.
        begin, end: absolute byte interval in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """One open file; its tensors are views of the mapping and cost no memory of their own.

    Attributes:
        path: the file.
        tensors: its entries by name, in file order.

    Raises:
        CheckpointError: from the constructor, when the file is not a valid safetensors file; the
            problem's field is the tensor concerned or the part of the header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < 8:
                    raise self._error("header", f"the file is {size} bytes long, too short")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise self._error("file", f"cannot be read: {error.strerror}") from error
        try:
            self.tensors = self._read_header(size)
        except CheckpointError:
            self.close()
            raise

    def close(self) -> None:
        """Unmaps the file, or leaves that to the last array which was handed out."""
        with contextlib.suppress(BufferError):
            self._map.close()

    def read(self, name: str) -> npt.NDArray[Any]:
        """Returns a read-only view of one tensor.

        Args:
            name: must be in `tensors`, with a dtype in `STORAGE_DTYPES`.

        Returns:
            The elements in their storage dtype (bfloat16 as uint16, FP8 as uint8), in the tensor's
            shape.
        """
        entry = self.tensors[name]
        array = np.frombuffer(
            self._map,
            dtype=STORAGE_DTYPES[entry.dtype],
            count=math.prod(entry.shape),
            offset=entry.begin,
        )
        return array.reshape(entry.shape)

    def _error(self, field: str, message: str, fix: str = "") -> CheckpointError:
        return CheckpointError(str(self.path), [Problem(field, message, fix)])

    def _read_header(self, size: int) -> dict[str, TensorEntry]:
        header_bytes = int.from_bytes(self._map[:8], "little")
        if header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise self._error(
                "header",
                f"claims {header_bytes} bytes; the file has {size} and at most "
                f"{MAX_HEADER_BYTES} are read",
                "the file is truncated or is not a safetensors file",
            )
        try:
            header = json.loads(
                self._map[8 : 8 + header_bytes].decode("utf-8"), object_pairs_hook=unique_keys
            )
        except RecursionError:
            raise self._error("header", "is nested too deeply") from None
        except ValueError as error:  # includes UnicodeDecodeError
            raise self._error("header", f"is not valid JSON: {error}") from None
        if not isinstance(header, dict):
            raise self._error("header", "is not a JSON object")
        header.pop("__metadata__", None)
        problems = Problems(str(self.path), CheckpointError)
        data_begin = 8 + header_bytes
        tensors: dict[str, TensorEntry] = {}
        for name, value in header.items():
            entry = _parse_entry(name, value, data_begin, size, problems)
            if entry is not None:
                tensors[name] = entry
        problems.raise_if_any()
        _check_tiling(tensors, data_begin, size, problems)
        problems.raise_if_any()
        return dict(sorted(tensors.items(), key=lambda item: item[1].begin))


def _parse_entry(
    name: str, value: Any, data_begin: int, file_bytes: int, problems: Problems
) -> TensorEntry | None:
    """Checks one entry of the header; notes a problem and returns None where it is wrong."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        problems.add(name, "its entry is not an object of dtype, shape and data_offsets")
        return None
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE_DTYPES | OTHER_ITEM_BYTES:
        problems.add(name, f"has the unknown dtype {dtype!r}")
        return None
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        problems.add(name, f"has the malformed shape {shape!r}")
        return None
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        problems.add(name, f"has the malformed data_offsets {offsets!r}")
        return None
    begin, end = data_begin + offsets[0], data_begin + offsets[1]
    if end > file_bytes:
        problems.add(name, f"ends at byte {end} of a file of {file_bytes}", "the file is truncated")
        return None
    storage = STORAGE_DTYPES.get(dtype)
    item_bytes = OTHER_ITEM_BYTES[dtype] if storage is None else storage.itemsize
    expected = math.prod(shape) * item_bytes
    if end - begin != expected:
        problems.add(name, f"has {end - begin} bytes; {dtype} {shape} takes {expected}")
        return None
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48
        for value in values
    )


def _check_tiling(
    tensors: dict[str, TensorEntry], data_begin: int, file_bytes: int, problems: Problems
) -> None:
    """The intervals must follow each other without gap or overlap to the end of the file."""
    position = data_begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            kind = "overlaps the tensor before it" if entry.begin < position else "follows a gap"
            problems.add(name, kind)
        position = max(position, entry.end)
    if position != file_bytes:
        problems.add("file", f"has {file_bytes - position} bytes after the last tensor")
