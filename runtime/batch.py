# SPDX-License-Identifier: Apache-2.0
"""A ScheduledBatch as numpy arrays: what a Python executor sees of one step."""

from __future__ import annotations

import ctypes
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
        header = abi.Batch.from_address(address)
        _check_header(header)
        return cls.from_buffer((ctypes.c_uint8 * header.total_bytes).from_address(address))

    @classmethod
    def from_buffer(cls, buffer: Any) -> Self:
        """Views of the batch in `buffer`, e.g. one that another rank broadcast.

        Raises:
            InvalidArgumentError: the buffer does not begin with a batch of this version, or ends
                before the batch does.
        """
        data = np.frombuffer(buffer, np.uint8)
        if data.nbytes < ctypes.sizeof(abi.Batch):
            raise InvalidArgumentError(f"batch: {data.nbytes} bytes do not hold its header")
        header = abi.Batch.from_buffer_copy(data[: ctypes.sizeof(abi.Batch)].tobytes())
        _check_header(header)
        if header.total_bytes > data.nbytes:
            raise InvalidArgumentError(
                f"batch: total_bytes {header.total_bytes} exceeds the buffer's {data.nbytes}"
            )

        def view(name: str, dtype: Any, *shape: int) -> npt.NDArray[Any]:
            offset = getattr(header, name)
            count = int(np.prod(shape, dtype=np.uint64))
            num_bytes = count * np.dtype(dtype).itemsize
            if offset % 8 or offset + num_bytes > header.total_bytes:
                raise InvalidArgumentError(
                    f"batch: {name} at offset {offset}, {num_bytes} bytes, does not lie in "
                    f"{header.total_bytes} bytes at a multiple of 8"
                )
            array = np.frombuffer(data, dtype, count, offset) if count else np.empty(0, dtype)
            array.flags.writeable = False
            return array.reshape(shape)

        tokens, sequences = header.num_tokens, header.num_sequences
        return cls(
            step_id=header.step_id,
            token_ids=view("token_ids", np.int32, tokens),
            positions=view("positions", np.int32, tokens),
            cu_seqlens_q=view("cu_seqlens_q", np.int32, sequences + 1),
            context_lens=view("context_lens", np.int32, sequences),
            block_tables=view("block_tables", np.int32, sequences, header.block_table_width),
            slot_mapping=view("slot_mapping", np.int64, tokens),
            block_copies=view("block_copies", np.int32, header.num_block_copies, 2),
            logit_rows=view("logit_rows", np.int32, header.num_logit_rows),
            samples=view("samples", SAMPLE_DTYPE, header.num_samples),
        )

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.context_lens)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)


def _check_header(header: abi.Batch) -> None:
    if header.magic != abi.BATCH_MAGIC or header.version != abi.BATCH_VERSION:
        raise InvalidArgumentError(
            f"batch: magic {header.magic:#x} version {header.version} is not "
            f"{abi.BATCH_MAGIC:#x} version {abi.BATCH_VERSION}"
        )
