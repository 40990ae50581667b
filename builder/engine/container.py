# SPDX-License-Identifier: Apache-2.0
"""Writes `rank{r}.engine`: header, section table and sections (docs/engine-format.md)."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"ENGINERY"
FORMAT_VERSION = 1
HEADER_BYTES = 256
SECTION_ENTRY_BYTES = 128
CHECKED_AT_OPEN = 1
MIN_ALIGNMENT = 64
WEIGHTS_ALIGNMENT = 4096  # a page, so that weights can be advised and locked by themselves
# A file system that keeps files in large pages makes them as large as a write lets it, and a model
# reads its weights faster through few large pages. A multiple of 2 MiB, the largest there are.
WRITE_BYTES = 8 << 20


@dataclass(frozen=True)
class Header:
    """What the header says of the engine; see the format's description of each field."""

    target: str
    sku: str
    variant: str
    tp_size: int
    tp_rank: int
    builder_version: str


@dataclass(frozen=True)
class Section:
    """A section to be written.

    Attributes:
        name: at most 47 ASCII characters.
        num_bytes: its exact size.
        chunks: makes its bytes, piece by piece.
        flags: `CHECKED_AT_OPEN` or 0.
        alignment: of its offset; a power of two, at least `MIN_ALIGNMENT`.
    """

    name: str
    num_bytes: int
    chunks: Callable[[], Iterable[bytes | memoryview]]
    flags: int = 0
    alignment: int = MIN_ALIGNMENT


def bytes_section(name: str, content: bytes) -> Section:
    """A section whose bytes are at hand, checked whenever the engine is opened."""
    return Section(name, len(content), lambda: [content], CHECKED_AT_OPEN)


def write_container(path: Path, header: Header, sections: list[Section]) -> None:
    """Writes the file in one pass, hashing the sections as they pass, and forces it to the disk.

    Args:
        path: a file that does not exist yet.
        header: what it is.
        sections: in the order of the section table.

    Raises:
        OSError: the file cannot be written.
    """
    head_bytes = HEADER_BYTES + SECTION_ENTRY_BYTES * len(sections)
    position = head_bytes
    table = b""
    with path.open("xb", buffering=0) as file:
        pieces = LargePieces(file)
        pieces.write(bytes(head_bytes))
        for section in sections:
            offset = -(-position // section.alignment) * section.alignment
            pieces.write(bytes(offset - position))
            digest = _write_section(pieces, section)
            position = offset + section.num_bytes
            table += struct.pack(
                "<48sQQII24x32s",
                _text(section.name, 48),
                offset,
                section.num_bytes,
                section.alignment,
                section.flags,
                digest,
            )
        fields = _header_fields(header, position, len(sections))
        checksum = hashlib.sha256(fields + table).digest()
        pieces.flush()
        file.seek(0)
        pieces.write(fields + checksum + table)
        pieces.flush()
        os.fsync(file.fileno())


class LargePieces:
    """Gathers what is written and hands it on in pieces of `WRITE_BYTES`, from the position on."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._buffer = bytearray(WRITE_BYTES)
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Takes the bytes of `data`."""
        view = memoryview(data).cast("B")
        while len(view) > 0:
            size = min(len(view), WRITE_BYTES - self._size)
            self._buffer[self._size : self._size + size] = view[:size]
            self._size += size
            view = view[size:]
            if self._size == WRITE_BYTES:
                self.flush()

    def skip(self, num_bytes: int) -> None:
        """Leaves a hole, which takes no room and reads as zeros."""
        self.flush()
        self._file.seek(num_bytes, io.SEEK_CUR)

    def flush(self) -> None:
        """Hands on what is left."""
        with memoryview(self._buffer) as buffer:
            begin = 0
            while begin < self._size:
                begin += self._file.write(buffer[begin : self._size]) or 0
        self._size = 0


def _write_section(file: LargePieces, section: Section) -> bytes:
    digest = hashlib.sha256()
    written = 0
    for chunk in section.chunks():
        digest.update(chunk)
        file.write(chunk)
        written += memoryview(chunk).nbytes
    assert written == section.num_bytes, f"{section.name}: {written} of {section.num_bytes} bytes"
    return digest.digest()


def _header_fields(header: Header, file_bytes: int, num_sections: int) -> bytes:
    fields = struct.pack(
        "<8sIIQIIQ32s32s32sIIII32s40x",
        MAGIC,
        FORMAT_VERSION,
        HEADER_BYTES,
        file_bytes,
        num_sections,
        SECTION_ENTRY_BYTES,
        HEADER_BYTES,
        _text(header.target, 32),
        _text(header.sku, 32),
        _text(header.variant, 32),
        header.tp_size,
        header.tp_rank,
        1,  # pp_size
        0,  # pp_rank
        _text(header.builder_version, 32),
    )
    assert len(fields) == HEADER_BYTES - 32
    return fields


def _text(text: str, field_bytes: int) -> bytes:
    assert text.isascii() and text.isprintable() and len(text) < field_bytes, text
    return text.encode()
