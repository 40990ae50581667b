# SPDX-License-Identifier: Apache-2.0
"""How far logits may be from those of transformers in float32: the one table, a reason each.

The measure is max |difference| / max |logit|, per row of logits, the largest over the rows. The
limits stand about a third above what was measured on the tiny checkpoints.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class Tolerance(NamedTuple):
    """A bound and why it is not smaller."""

    limit: float
    reason: str


# By scheme: tiny random checkpoints, whose every weight matters as much as any other.
RANDOM_WEIGHTS = {
    "float32": Tolerance(1e-4, "promised; only the order of sums differs (measured: 2e-6)"),
    "bfloat16": Tolerance(0.025, "GEMM operands and the KV cache keep 8 bits of mantissa"),
    "int8_wo": Tolerance(0.06, "weights in 255 steps per output channel, the rest as bfloat16"),
    "int8_dynamic": Tolerance(0.085, "weights and activations in 255 steps, per token"),
    "w4a8_dynamic": Tolerance(0.75, "weights in 16 steps per group; activations as above"),
    "int8_kv": Tolerance(0.07, "keys and values in 255 steps of a scale per layer"),
    "fp8_kv": Tolerance(0.2, "keys and values keep 4 bits of mantissa"),
    "int8_sq": Tolerance(
        0.25, "weights in 255 steps, activations in 255 of one scale that was not calibrated"
    ),
    "int4_wo": Tolerance(0.95, "weights in 15 steps per block, rounded to nearest"),
    "fp8": Tolerance(0.3, "operands keep 4 bits of mantissa"),
}

# By scheme: the trained demo checkpoint, four layers deep.
DEMO = {
    "float32": Tolerance(1e-4, "promised; only the order of sums differs (measured: 3e-6)"),
    "bfloat16": Tolerance(0.013, "as above; its weights are bfloat16 already"),
    "int8_wo": Tolerance(0.03, "as above"),
    "int8_dynamic": Tolerance(0.085, "as above; trained activations have larger outliers"),
    "w4a8_dynamic": Tolerance(0.33, "as above"),
    "int8_kv": Tolerance(0.25, "as above, with scales that were not calibrated"),
    "fp8_kv": Tolerance(0.25, "as above"),
    "int8_sq": Tolerance(0.25, "as above"),
    "int4_wo": Tolerance(0.35, "as above"),
    "fp8": Tolerance(0.25, "as above"),
}

# By scheme: an engine of two ranks against one of one rank.
TENSOR_PARALLEL = {
    "float32": Tolerance(1e-5, "the ranks' partial sums are added in another order"),
    "bfloat16": Tolerance(0.01, "sums that round to another bfloat16 operand"),
    "int8_wo": Tolerance(0.01, "as bfloat16: the codes are the same"),
    "int8_dynamic": Tolerance(0.085, "each rank scales its share of an activation by itself"),
    "w4a8_dynamic": Tolerance(0.085, "as int8_dynamic: the codes are the same"),
    "int8_kv": Tolerance(0.02, "keys and values that round to another code"),
    "fp8_kv": Tolerance(0.03, "as int8_kv"),
    "int8_sq": Tolerance(0.01, "as bfloat16: codes are the same"),
    "int4_wo": Tolerance(0.01, "as bfloat16"),
    "fp8": Tolerance(0.06, "sums that round to another code"),
}

# Of the demo text's positions, so many must have a greedy token that the tolerance cannot change.
MIN_DECIDED_SHARE = 0.9


def relative_error(got: FloatArray, expected: FloatArray) -> npt.NDArray[np.float64]:
    """max |difference| / max |logit| of each row; float64 [rows]."""
    difference = np.abs(got.astype(np.float64) - expected).max(axis=-1)
    error: npt.NDArray[np.float64] = difference / np.abs(expected).max(axis=-1)
    return error


def is_decided(expected: FloatArray, limit: float) -> npt.NDArray[np.bool_]:
    """Whether a row's best logit leads by more than twice the tolerance; bool [rows].

    Within the tolerance no error can then change the greedy token.
    """
    best = np.sort(expected, axis=-1)[:, -2:].astype(np.float64)
    scale = np.abs(expected).max(axis=-1)
    decided: npt.NDArray[np.bool_] = best[:, 1] - best[:, 0] > 2 * limit * scale
    return decided


def check_logits(got: FloatArray, expected: FloatArray, tolerance: Tolerance) -> float:
    """Asserts the tolerance, and equal greedy tokens wherever it decides them.

    Returns:
        The share of rows whose greedy token it decides.
    """
    assert got.shape == expected.shape
    error = relative_error(got, expected)
    assert error.max() <= tolerance.limit, (
        f"row {error.argmax()} of {len(error)} is off by {error.max():.3g}; the limit is "
        f"{tolerance.limit:g}: {tolerance.reason}"
    )
    decided = is_decided(expected, tolerance.limit)
    np.testing.assert_array_equal(got.argmax(axis=-1)[decided], expected.argmax(axis=-1)[decided])
    return float(decided.mean())
