# SPDX-License-Identifier: Apache-2.0
"""Symmetric INT4 weights with one scale per block of inputs: real = q * scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginery.quantization.scaling import row_scale

INT4_MAX = 7
INT4_BLOCK = 128
INT4_BLOCKS = (INT4_BLOCK, 64, 32)
"""Inputs that may share a scale, the default first."""


def int4_scale(
    weight: npt.NDArray[np.float32], name: str, block_size: int = INT4_BLOCK
) -> npt.NDArray[np.float32]:
    """The scale of each block, amax / 7; 1 for a block of zeros.

    Args:
        weight: float32 `[N, K]`, K a multiple of `block_size`.
        name: the tensor's name, for the error.
        block_size: inputs that share a scale.

    Returns:
        float32 `[N, K / block_size]`, above zero.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    num_rows, depth = weight.shape
    assert depth % block_size == 0
    blocks = weight.reshape(-1, block_size)
    return row_scale(blocks, name, INT4_MAX).reshape(num_rows, depth // block_size)


def int4_codes(
    weight: npt.NDArray[np.float32], scale: npt.NDArray[np.float32]
) -> npt.NDArray[np.int8]:
    """Returns int8 `[N, K]`: weight / scale, rounded half to even, clamped to -7..7.

    Args:
        weight: finite float32 `[N, K]`.
        scale: float32 `[N, blocks]`, above zero.
    """
    q = weight.reshape(*scale.shape, -1) / scale[:, :, np.newaxis]
    np.rint(q, out=q)
    np.clip(q, -INT4_MAX, INT4_MAX, out=q)
    return q.astype(np.int8).reshape(weight.shape)


def pack_int4(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Packs codes two per byte along the last dimension, the first in the low nibble.

    Args:
        codes: int8 `[N, K]` in -8..7, K even.

    Returns:
        uint8 `[N, K / 2]`.
    """
    nibbles = codes.view(np.uint8) & np.uint8(15)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << np.uint8(4))


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Returns int8 `[N, K]` of `pack_int4`'s uint8 `[N, K / 2]`."""
    nibbles = np.stack([packed << np.uint8(4), packed & np.uint8(0xF0)], axis=-1)
    # The code stands in the upper nibble; shifting it down as a signed number extends its sign.
    codes: npt.NDArray[np.int8] = nibbles.view(np.int8) >> np.int8(4)
    return codes.reshape(packed.shape[0], -1)
