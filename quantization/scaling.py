# SPDX-License-Identifier: Apache-2.0
"""Scales of symmetric quantisation: one per row, from its largest magnitude."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class QuantizationError(ValueError):
    """A tensor has values that cannot be quantised."""


def row_amax(weight: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    """The largest magnitude of each row.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.

    Returns:
        float32 `[N]`.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    amax: npt.NDArray[np.float32] = np.maximum(
        weight.max(axis=1, initial=0), -weight.min(axis=1, initial=0)
    )
    # A NaN anywhere in a row makes its amax NaN, an infinity makes it infinite.
    if not np.isfinite(amax).all():
        row = int(np.flatnonzero(~np.isfinite(amax))[0])
        raise QuantizationError(
            f"{name}: row {row} holds values that are not finite; the checkpoint is damaged or "
            "overflowed when it was saved"
        )
    return amax


def row_scale(
    weight: npt.NDArray[np.float32],
    name: str,
    largest: float,
    amax: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """The scale of each row, amax / largest; 1 for a row of zeros.

    Args:
        weight: float32 `[N, K]`.
        name: the tensor's name, for the error.
        largest: the magnitude that amax becomes.
        amax: float32 `[N]`, at least the magnitudes in `weight`; None takes the rows' own.

    Returns:
        float32 `[N]`, above zero.

    Raises:
        QuantizationError: a value is infinite or NaN.
    """
    if amax is None:
        amax = row_amax(weight, name)
    scale = amax / np.float32(largest)
    # Subnormal rows would give a scale of zero; they are zeros for every purpose.
    scale[scale < np.finfo(np.float32).tiny] = 1
    return scale
