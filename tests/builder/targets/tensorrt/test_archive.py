# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from enginery.builder.targets.tensorrt.archive import json_member, read_archive, write_archive
from enginery.runtime.executors.archive import read_archive as read_as_runtime

MEMBERS = {"sku.json": b"{}\n", "kernels/b.cubin": bytes(range(256)), "kernels/a.cubin": b""}


def test_both_readers_find_what_was_written() -> None:
    content = write_archive(MEMBERS)
    assert read_archive(content) == MEMBERS
    assert read_as_runtime(np.frombuffer(content, np.uint8), "test") == MEMBERS


def test_the_same_members_are_the_same_bytes_in_any_order() -> None:
    content = write_archive(MEMBERS)
    assert content == write_archive(dict(reversed(MEMBERS.items())))
    assert content != write_archive(MEMBERS | {"sku.json": b"{}"})


def test_members_are_stored_sorted_and_without_a_date() -> None:
    with zipfile.ZipFile(io.BytesIO(write_archive(MEMBERS))) as archive:
        entries = archive.infolist()
    assert [entry.filename for entry in entries] == sorted(MEMBERS)
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100])
def test_what_is_no_archive(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an archive"):
        read_archive(content)


def test_json_ends_in_a_newline() -> None:
    assert json_member({"é": [1]}) == '{\n "é": [\n  1\n ]\n}\n'.encode()
