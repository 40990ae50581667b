# SPDX-License-Identifier: Apache-2.0
"""One rank's file: its program, the vocabulary's bytes, and its weights as they are packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from enginery.builder.engine.container import (
    WEIGHTS_ALIGNMENT,
    Header,
    Section,
    bytes_section,
    write_container,
)
from enginery.builder.engine.program import TENSOR_ALIGNMENT, Program
from enginery.builder.engine.token_bytes import encode_token_bytes
from enginery.builder.tokenizer.vocabulary import TokenText

# (index of the tensor, next piece of its bytes), tensor by tensor in the program's order
TensorPieces = Iterable[tuple[int, bytes | memoryview]]

WEIGHTS_SECTION = 2


def rank_file_name(rank: int) -> str:
    """The file of a rank in its engine directory."""
    return f"rank{rank}.engine"


def write_rank_file(
    path: Path,
    header: Header,
    program: Program,
    tokens: Sequence[TokenText],
    pack: Callable[[], TensorPieces],
    on_written: Callable[[int], None],
    extra_sections: Sequence[Section] = (),
) -> None:
    """Writes a rank's file in one pass.

    Args:
        path: a file that does not exist yet.
        header: what it is.
        program: what the rank does.
        tokens: the text of each token id.
        pack: makes the program's tensors.
        on_written: called with the size of each piece of a tensor once it is written.
        extra_sections: what the target has beside these, written after them.
    """
    weights = Section(
        "weights",
        program.weight_bytes(),
        lambda: _aligned(program, pack(), on_written),
        alignment=WEIGHTS_ALIGNMENT,
    )
    sections = [
        bytes_section("program", program.encode(WEIGHTS_SECTION)),
        bytes_section("token_bytes", encode_token_bytes(tokens)),
        weights,
        *extra_sections,
    ]
    assert sections[WEIGHTS_SECTION] is weights
    write_container(path, header, sections)


def _aligned(
    program: Program, pieces: TensorPieces, on_written: Callable[[int], None]
) -> Iterator[bytes | memoryview]:
    """The bytes of the weights section: the tensors in order, padded between."""
    current, written = 0, 0
    for index, piece in pieces:
        if index != current:
            assert index == current + 1 and written == program.tensors[current].num_bytes
            yield bytes(-written % TENSOR_ALIGNMENT)
            current, written = index, 0
        yield piece
        num_bytes = memoryview(piece).nbytes
        written += num_bytes
        on_written(num_bytes)
    assert current == len(program.tensors) - 1 and written == program.tensors[current].num_bytes
