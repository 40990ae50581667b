# SPDX-License-Identifier: Apache-2.0
"""Malformed safetensors files, one error per cause."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from enginery.builder.checkpoint.safetensors import SafetensorsFile
from enginery.builder.errors import CheckpointError

Header = dict[str, Any]

GOOD: Header = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [5], "data_offsets": [24, 34]},
}


def write(path: Path, header: Header | bytes, data: bytes = bytes(34)) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def with_entry(name: str, **changes: Any) -> Header:
    return GOOD | {name: GOOD[name] | changes}


def test_reads_what_the_reference_library_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "z": rng.standard_normal((7, 11)).astype(np.float32),
        "a": rng.standard_normal(13).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "ids": np.arange(9),
    }
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    file = SafetensorsFile(path)
    assert set(file.tensors) == set(tensors)
    assert file.tensors["ids"].dtype == "I64"
    for name in ("z", "a", "empty"):
        assert np.array_equal(file.read(name), tensors[name])
    view = file.read("z")
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    file.close()  # the view keeps the mapping alive
    assert view[6, 10] == tensors["z"][6, 10]


HEADERS: dict[str, tuple[Header | bytes, str]] = {
    "not_json": (b"{'a': 1}", "not valid JSON"),
    "not_utf8": (b'{"\xff": 1}', "not valid JSON"),
    "not_an_object": (b"[1, 2]", "not a JSON object"),
    "too_deep": (b"[" * 100_000, "nested too deeply"),
    "huge_integer": (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "duplicate_key": (b'{"a": 1, "a": 2}', "given twice"),
    "entry_not_an_object": ({"a": 5}, "a: its entry"),
    "entry_lacks_shape": ({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, "a: its entry"),
    "unknown_dtype": (with_entry("a", dtype="F33"), "unknown dtype 'F33'"),
    "dtype_not_a_string": (with_entry("a", dtype=[]), "unknown dtype"),
    "negative_size": (with_entry("a", shape=[-2, -3]), "malformed shape"),
    "boolean_size": (with_entry("a", shape=[True, 6]), "malformed shape"),
    "fractional_size": (with_entry("a", shape=[2.0, 3]), "malformed shape"),
    "huge_size": (with_entry("a", shape=[1 << 62, 1 << 62]), "malformed shape"),
    "too_many_dimensions": (with_entry("a", shape=[1] * 9), "malformed shape"),
    "one_offset": (with_entry("a", data_offsets=[0]), "malformed data_offsets"),
    "offsets_reversed": (with_entry("a", data_offsets=[24, 0]), "malformed data_offsets"),
    "size_is_not_the_shape's": (with_entry("a", shape=[2, 4]), "has 24 bytes"),
    "size_is_not_the_dtype's": (with_entry("b", dtype="F32"), "has 10 bytes"),
    "beyond_the_end": (with_entry("b", data_offsets=[24, 1 << 40]), "file is truncated"),
    "overlap": (with_entry("b", data_offsets=[20, 30]), "b: overlaps"),
    "gap": (GOOD | {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [26, 34]}}, "a gap"),
    "bytes_after_the_last": ({"a": GOOD["a"]}, "10 bytes after the last tensor"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_malformed_headers(tmp_path: Path, case: str) -> None:
    header, message = HEADERS[case]
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(write(tmp_path / "x.safetensors", header))


def test_the_good_header_of_these_tests_is_good(tmp_path: Path) -> None:
    assert list(SafetensorsFile(write(tmp_path / "x.safetensors", GOOD)).tensors) == ["a", "b"]


FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "0 bytes long"),
    "only_half_a_length": (lambda data: data[:5], "5 bytes long"),
    "header_cut": (lambda data: data[:40], "claims"),
    "header_length_lies": (lambda data: b"\xff" * 8 + data[8:], "claims 18446744073709551615"),
    "data_cut": (lambda data: data[:-1], "file is truncated"),
    "data_grown": (lambda data: data + b"\0", "1 bytes after the last tensor"),
}


@pytest.mark.parametrize("case", FILES)
def test_damaged_files(tmp_path: Path, case: str) -> None:
    damage, message = FILES[case]
    path = write(tmp_path / "x.safetensors", GOOD)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(path)


def test_all_bad_entries_are_told_at_once(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]},
        "b": {"dtype": "X", "shape": [5], "data_offsets": [24, 34]},
    }
    with pytest.raises(CheckpointError) as error:
        SafetensorsFile(write(tmp_path / "x.safetensors", header))
    assert [problem.field for problem in error.value.problems] == ["a", "b"]


def test_any_single_byte_may_be_wrong(tmp_path: Path) -> None:
    """Whatever byte of length or header is changed, the file opens or is refused by name."""
    good = write(tmp_path / "good.safetensors", GOOD).read_bytes()
    path = tmp_path / "bad.safetensors"
    refused = 0
    for position in range(len(good) - 34):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= flip
            path.write_bytes(bad)
            try:
                SafetensorsFile(path)
            except CheckpointError:
                refused += 1
    assert refused > 300
