# SPDX-License-Identifier: Apache-2.0
"""A ScheduledBatch as numpy arrays: what a Python executor sees of one step."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from . import abi
from .errors import InvalidArgumentError

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]

SAMPLE_DTYPE = np.dtype(
    [
        ("logit_row", np.int32),
        ("flags", np.uint32),
        ("temperature", np.float32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("top_k", np.int32),
        ("seed", np.uint64),
        ("sequence_index", np.uint32),
        ("position", np.uint32),
    ],
    align=True,
)
"""`enginery_sample_record`."""

SAMPLE_GREEDY = 1
SAMPLE_HOST_ONLY = 2
"""Bits of a sample record's `flags`."""


# `enginery_batch`; tests hold it to the struct of the same fields in abi.py.
_HEADER = struct.Struct("<2I2Q6I9Q")
# In the order of the header's offsets and of ScheduledBatch's fields.
_ARRAYS = tuple(
    (name, np.dtype(dtype))
    for name, dtype in (
        ("token_ids", np.int32),
        ("positions", np.int32),
        ("cu_seqlens_q", np.int32),
        ("context_lens", np.int32),
        ("block_tables", np.int32),
        ("slot_mapping", np.int64),
        ("block_copies", np.int32),
        ("logit_rows", np.int32),
        ("samples", SAMPLE_DTYPE),
    )
)
# Unlike an array type of ctypes, of which there would be one for every size of a batch.
_view_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_view_memory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view_memory.restype = ctypes.py_object
_PYBUF_READ = 0x100


@dataclass(frozen=True)
class ScheduledBatch:
    """Read-only views of one step's `enginery_batch`; nothing is copied.

    S sequences, T packed tokens, L rows that want logits, W width of the block tables. The views
    of a batch that came to `Executor.execute` die when `Executor.collect` returns.
    """

    step_id: int
    token_ids: Int32Array
    """int32 [T]."""
    positions: Int32Array
    """int32 [T], absolute, from 0."""
    cu_seqlens_q: Int32Array
    """int32 [S + 1]: tokens of sequence s are [cu_seqlens_q[s], cu_seqlens_q[s + 1])."""
    context_lens: Int32Array
    """int32 [S]: length of the sequence's KV after this step."""
    block_tables: Int32Array
    """int32 [S, W], unused entries -1."""
    slot_mapping: Int64Array
    """int64 [T]: block * tokens_per_block + offset where the token's K and V go."""
    block_copies: Int32Array
    """int32 [num_block_copies, 2]: (from, to), all done before the step writes any KV."""
    logit_rows: Int32Array
    """int32 [L]: packed tokens whose logits are wanted, increasing."""
    samples: npt.NDArray[np.void]
    """`SAMPLE_DTYPE` [num_samples]."""

    @classmethod
    def from_address(cls, address: int) -> Self:
        """Views of the batch at `address`, which must be an `enginery_batch` that stays there."""
        header = ctypes.string_at(address, _HEADER.size)
        total_bytes = _read_header(header)[0]
        return cls.from_buffer(_view_memory(address, total_bytes, _PYBUF_READ))

    @classmethod
    def from_buffer(cls, buffer: Any) -> Self:
        """Views of the batch in `buffer`, e.g. one that another rank broadcast.

        Runs once a step on the step thread: it costs some 10 us whatever the batch's size.

        Raises:
            InvalidArgumentError: the buffer does not begin with a batch of this version, or ends
                before the batch does.
        """
        memory = memoryview(buffer).toreadonly()
        if memory.nbytes < _HEADER.size:
            raise InvalidArgumentError(f"batch: {memory.nbytes} bytes do not hold its header")
        header = _read_header(memory)
        total_bytes, step_id, sequences, tokens, rows, width, copies, samples = header[:8]
        if total_bytes > memory.nbytes:
            raise InvalidArgumentError(
                f"batch: total_bytes {total_bytes} exceeds the buffer's {memory.nbytes}"
            )
        counts = (
            tokens, tokens, sequences + 1, sequences, sequences * width, tokens, 2 * copies, rows,
            samples,
        )  # fmt: skip
        views: list[npt.NDArray[Any]] = []
        for (name, dtype), count, offset in zip(_ARRAYS, counts, header[8:], strict=True):
            num_bytes = count * dtype.itemsize
            if offset % 8 or offset + num_bytes > total_bytes:
                raise InvalidArgumentError(
                    f"batch: {name} at offset {offset}, {num_bytes} bytes, does not lie in "
                    f"{total_bytes} bytes at a multiple of 8"
                )
            views.append(
                np.frombuffer(memory, dtype, count, offset) if count else np.empty(0, dtype)
            )
        views[4] = views[4].reshape(sequences, width)
        views[6] = views[6].reshape(copies, 2)
        return cls(step_id, *views)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.context_lens)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)


def _read_header(data: Any) -> tuple[int, ...]:
    """The header's fields from `total_bytes` on."""
    magic, version, *fields = _HEADER.unpack_from(data)
    if magic != abi.BATCH_MAGIC or version != abi.BATCH_VERSION:
        raise InvalidArgumentError(
            f"batch: magic {magic:#x} version {version} is not "
            f"{abi.BATCH_MAGIC:#x} version {abi.BATCH_VERSION}"
        )
    return tuple(fields)
