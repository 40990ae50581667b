# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime import abi
from enginery.runtime.batch import _ARRAYS, _HEADER, SAMPLE_DTYPE, ScheduledBatch
from enginery.runtime.errors import InvalidArgumentError

# Two sequences, 3 + 1 packed tokens, one row of logits each, block tables 3 wide.
ARRAYS: dict[str, npt.NDArray[np.generic]] = {
    "token_ids": np.array([11, 12, 13, 99], np.int32),
    "positions": np.array([0, 1, 2, 40], np.int32),
    "cu_seqlens_q": np.array([0, 3, 4], np.int32),
    "context_lens": np.array([3, 41], np.int32),
    "block_tables": np.array([[5, -1, -1], [1, 0, 7]], np.int32),
    "slot_mapping": np.array([80, 81, 82, 120], np.int64),
    "block_copies": np.array([[2, 7]], np.int32),
    "logit_rows": np.array([2, 3], np.int32),
    "samples": np.array([(0, 1, 1, 1, 0, 0, 2**63, 0, 3), (1, 2, 0.5, 1, 0, 4, 9, 1, 41)],
                        SAMPLE_DTYPE),
}  # fmt: skip


def pack(**overrides: int) -> npt.NDArray[np.uint8]:
    header = abi.Batch(
        magic=abi.BATCH_MAGIC,
        version=abi.BATCH_VERSION,
        step_id=17,
        num_sequences=2,
        num_tokens=4,
        num_logit_rows=2,
        block_table_width=3,
        num_block_copies=1,
        num_samples=2,
    )
    offset = ctypes.sizeof(abi.Batch)
    for name, array in ARRAYS.items():
        setattr(header, name, offset)
        offset += -(-array.nbytes // 8) * 8
    header.total_bytes = offset
    buffer = np.zeros(offset, np.uint8)
    for name, array in ARRAYS.items():
        begin = getattr(header, name)
        buffer[begin : begin + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
    for name, value in overrides.items():
        setattr(header, name, value)
    buffer[: ctypes.sizeof(header)] = np.frombuffer(bytes(header), np.uint8)
    return buffer


def test_views() -> None:
    buffer = pack()
    for batch in (
        ScheduledBatch.from_buffer(buffer),
        ScheduledBatch.from_address(buffer.ctypes.data),
    ):
        assert batch.step_id == 17
        assert (batch.num_sequences, batch.num_tokens) == (2, 4)
        for name, array in ARRAYS.items():
            view = getattr(batch, name)
            np.testing.assert_array_equal(view, array)
            assert view.dtype == array.dtype
            assert not view.flags.writeable


def test_views_copy_nothing() -> None:
    buffer = pack()
    batch = ScheduledBatch.from_buffer(buffer)
    buffer[abi.Batch.from_buffer_copy(bytes(buffer)).token_ids] = 77
    assert batch.token_ids[0] == 77


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"magic": 1}, "magic"),
        ({"version": 2}, "version"),
        ({"total_bytes": 2**40}, "total_bytes"),
        ({"num_tokens": 2**32 - 1}, "token_ids"),
        ({"block_table_width": 2**32 - 1}, "block_tables"),
        ({"positions": 2**64 - 8}, "positions"),
        ({"logit_rows": 12}, "logit_rows"),
    ],
)
def test_refuses_a_lying_header(override: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        ScheduledBatch.from_buffer(pack(**override))


def test_refuses_a_buffer_without_room_for_the_header() -> None:
    with pytest.raises(InvalidArgumentError, match="header"):
        ScheduledBatch.from_buffer(pack()[:20])


def test_the_header_is_read_as_the_struct_lies() -> None:
    fields = [name for name, *_ in abi.Batch._fields_]
    header = abi.Batch(**{name: index + 1 for index, name in enumerate(fields)})
    header.magic, header.version = abi.BATCH_MAGIC, abi.BATCH_VERSION
    assert _HEADER.size == ctypes.sizeof(abi.Batch)
    assert _HEADER.unpack(bytes(header))[2:] == tuple(range(3, len(fields) + 1))
    assert fields[-len(_ARRAYS) :] == [name for name, _ in _ARRAYS]


def test_a_batch_may_lack_samples_and_copies() -> None:
    batch = ScheduledBatch.from_buffer(pack(num_samples=0, num_block_copies=0))
    assert batch.samples.shape == (0,)
    assert batch.samples.dtype == SAMPLE_DTYPE
    assert batch.block_copies.shape == (0, 2)
