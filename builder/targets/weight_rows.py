# SPDX-License-Identifier: Apache-2.0
"""Reads rows of a weight from the checkpoint, rounds and quantises them; shared by all targets.

Everything works on pieces of a weight's rows, so that packing takes a few pieces of memory whatever
the size of the weight. All functions may be called from several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError, Problem
from enginery.builder.network.weight import Weight, WeightPart
from enginery.quantization import QuantizationError, round_to, row_amax, widen

FloatArray = npt.NDArray[np.float32]

# Pieces have about this many elements. Each costs about 20 bytes per element while it is worked
# on, and at most NUM_THREADS + 1 are alive.
PIECE_ELEMENTS = 2 << 20
NUM_THREADS = 2
DTYPE_NAMES = {"bf16": "bfloat16", "f16": "float16"}

Piece = TypeVar("Piece")


def pieces(
    pool: ThreadPoolExecutor, weight: Weight, make: Callable[[int, int], Piece], multiple: int = 1
) -> Iterator[Piece]:
    """Makes a weight piece by piece, a few ahead of the reader, in order.

    Args:
        pool: of `NUM_THREADS` threads.
        weight: of rank 1 or 2.
        make: called with rows [begin, end).
        multiple: of the rows of each piece but the last.
    """
    num_rows = weight.shape[0]
    width = weight.shape[1] if len(weight.shape) == 2 else 1
    step = max(PIECE_ELEMENTS // (width * multiple), 1) * multiple
    ahead: deque[Future[Piece]] = deque()
    for begin in range(0, num_rows, step):
        ahead.append(pool.submit(make, begin, min(begin + step, num_rows)))
        if len(ahead) > NUM_THREADS:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def read_float32(checkpoint: Checkpoint, rows: Weight) -> FloatArray:
    """Returns rows of a weight, float32 `[N]` or `[N, K]`, as they are in the checkpoint.

    Codes become the values that they stand for; rows that have a factor are multiplied by it.
    """
    parts = [_part_float32(checkpoint, part, _columns(part)) for part in rows.parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def read_factor(checkpoint: Checkpoint, part: WeightPart) -> FloatArray | None:
    """What the rows of a part are multiplied by, float32 `[N]`; None: nothing."""
    if part.factor is None:
        return None
    return checkpoint.read_float32(part.factor).reshape(-1)[slice(*part.rows)]


def _part_float32(checkpoint: Checkpoint, part: WeightPart, columns: slice) -> FloatArray:
    values = checkpoint.read_float32(part.tensor, slice(*part.rows), columns)
    factor = read_factor(checkpoint, part)
    if factor is None:
        return values
    return values * (factor if values.ndim == 1 else factor[:, np.newaxis])


def read_rounded(checkpoint: Checkpoint, rows: Weight, dtype: str) -> npt.NDArray[Any]:
    """Returns rows of a weight rounded to `dtype` ("f32", "bf16" or "f16").

    Raises:
        CheckpointError: a value is not finite, or not in the range of `dtype`.
    """
    is_stored = all(
        checkpoint.tensors[part.tensor].dtype == "BF16" and part.factor is None
        for part in rows.parts
    )
    if dtype == "bf16" and is_stored:
        parts = [checkpoint.read(p.tensor, slice(*p.rows), _columns(p)) for p in rows.parts]
        stored = parts[0] if len(parts) == 1 else np.concatenate(parts)
    else:
        stored = round_to(read_float32(checkpoint, rows), dtype)
    is_finite = (stored & 0x7F80) != 0x7F80 if dtype == "bf16" else np.isfinite(stored)
    if not is_finite.all():
        raise not_finite(checkpoint, rows, dtype)
    return stored


def read_with_amax(checkpoint: Checkpoint, rows: Weight) -> tuple[FloatArray, FloatArray]:
    """Returns rows of a weight and the largest magnitude of each, float32 `[N, K]` and `[N]`.

    The magnitude is that of all the row's columns in the checkpoint: a rank that holds a share of
    them scales its rows as if it held them all, and so codes do not depend on the number of ranks.

    Raises:
        CheckpointError: a value is not finite.
    """
    values = read_float32(checkpoint, rows)
    try:
        if all(part.columns == (0, _depth(checkpoint, part)) for part in rows.parts):
            return values, row_amax(values, rows.name)
        return values, np.concatenate([_part_amax(checkpoint, part) for part in rows.parts])
    except QuantizationError as error:
        raise not_finite(checkpoint, rows) from error


def _depth(checkpoint: Checkpoint, part: WeightPart) -> int:
    return checkpoint.tensors[part.tensor].shape[1]


def _part_amax(checkpoint: Checkpoint, part: WeightPart) -> FloatArray:
    """Reads no more at a time than the part itself takes."""
    assert part.columns is not None
    share, depth = part.columns[1] - part.columns[0], _depth(checkpoint, part)
    amax = np.zeros(part.num_rows, np.float32)
    for begin in range(0, depth, share):
        columns = slice(begin, min(begin + share, depth))
        values = _part_float32(checkpoint, part, columns)
        np.maximum(amax, row_amax(values, part.tensor), out=amax)
    return amax


def round_scale(
    checkpoint: Checkpoint, rows: Weight, scale: FloatArray, dtype: str
) -> npt.NDArray[Any]:
    """Rounds scales of a weight's rows to the dtype in which they are stored; see `round_to`.

    Raises:
        CheckpointError: a scale is beyond its range.
    """
    # What rounds to zero belongs to values that are zeros for every purpose.
    stored = round_to(scale, dtype)
    wide = widen(stored)
    if not np.isfinite(wide).all():
        raise _out_of_range(checkpoint, rows.parts[0].tensor, dtype)
    if not wide.all():
        stored = round_to(np.where(wide == 0, np.float32(1), wide), dtype)
    return stored


def not_finite(checkpoint: Checkpoint, rows: Weight, dtype: str = "bf16") -> CheckpointError:
    """Names the tensor, in the checkpoint's words, that made a row impossible to store."""
    for part in rows.parts:
        values = checkpoint.read_float32(part.tensor, slice(*part.rows))
        bad = ~np.isfinite(values)
        if bad.any():
            row = part.rows[0] + int(np.argwhere(bad)[0][0])
            message = f"row {row} holds a NaN or an infinity"
            return _damaged(checkpoint, part.tensor, message)
    return _out_of_range(checkpoint, rows.parts[0].tensor, dtype)


def _out_of_range(checkpoint: Checkpoint, tensor: str, dtype: str) -> CheckpointError:
    message = f"holds values beyond the range of {DTYPE_NAMES.get(dtype, dtype)}"
    if dtype == "f16":
        problem = Problem(tensor, message, "build with --dtype bfloat16")
        return CheckpointError(str(checkpoint.directory), [problem])
    return _damaged(checkpoint, tensor, message)


def _damaged(checkpoint: Checkpoint, tensor: str, message: str) -> CheckpointError:
    fix = "the checkpoint is damaged or overflowed when it was saved"
    return CheckpointError(str(checkpoint.directory), [Problem(tensor, message, fix)])


def _columns(part: WeightPart) -> slice:
    return slice(None) if part.columns is None else slice(*part.columns)
