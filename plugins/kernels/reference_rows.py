# SPDX-License-Identifier: Apache-2.0
"""Float32 references of the kernels that pick rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def embed(
    token_ids: npt.NDArray[np.int32], weight: npt.NDArray[Any], scale: FloatArray | None
) -> FloatArray:
    """Returns float32 [T, columns]: rows of `weight` [vocab, columns] times `scale` [vocab]."""
    rows = weight[token_ids].astype(np.float32)
    return rows if scale is None else rows * scale[token_ids, None].astype(np.float32)


def gather_rows(x: FloatArray, logit_rows: npt.NDArray[np.int32]) -> FloatArray:
    """Returns float32 [L, columns]: rows `logit_rows` of `x` [T, columns]."""
    return x[logit_rows]
