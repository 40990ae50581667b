# SPDX-License-Identifier: Apache-2.0
"""The runtime's sampler in numpy: its rules by sorting, its weights and random numbers to the bit.

`runtime/src/sample/sampler.h` says what the rules are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
GREEDY, HOST_ONLY = 1, 2


def exp_nonpositive(x: Float32Array) -> Float32Array:
    """exp(x) for x <= 0, float32 step by step; 0 below -87."""
    f = np.float32
    clamped = np.maximum(x, f(-87))
    n = (clamped * f(1.44269504) + f(12582912)) - f(12582912)
    r = (clamped - n * f(0.693359375)) - n * f(-2.12194440e-4)
    p = np.full_like(x, f(1) / f(5040))
    for divisor in (720, 120, 24, 6, 2, 1, 1):
        p = p * r + f(1) / f(divisor)
    power = ((n.astype(np.int32) + 127) << 23).view(np.float32)
    return np.where(x < -87, f(0), p * power)


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """The four words of Philox4x32-10."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & 0xFFFFFFFF,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def uniform_at(seed: int, sequence_index: int, position: int) -> float:
    """In [0, 1), a multiple of 2^-53."""
    words = philox4x32([position, sequence_index, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
    return float((words[0] << 32 | words[1]) >> 11) * 2.0**-53


def kept_weights(row: Float32Array, record: Any) -> Float32Array:
    """Weights [vocab] of one row; 0 where top_k, top_p or min_p leave a token out."""
    weights = exp_nonpositive((row - row.max()) / np.float32(record["temperature"]))
    ids = np.arange(len(row))
    if 0 < record["top_k"] < len(row):
        ranked = np.lexsort((ids, -row))
        weights[ranked[record["top_k"] :]] = 0
    if record["top_p"] < 1:
        ranked = np.lexsort((ids, -weights))
        sums = np.cumsum(weights[ranked], dtype=np.float64)
        wanted = float(record["top_p"]) * np.sum(weights, dtype=np.float64)
        weights[ranked[int(np.searchsorted(sums, wanted)) + 1 :]] = 0
    weights[weights < record["min_p"]] = 0
    return weights


def sample(logits: Float32Array, samples: npt.NDArray[np.void]) -> npt.NDArray[np.int32]:
    """One token per record of `samples` (`SAMPLE_DTYPE`); -1 where none is drawn."""
    tokens = np.full(len(samples), -1, np.int32)
    for s, record in enumerate(samples):
        row = logits[record["logit_row"]]
        is_valid = bool((row < np.inf).all()) and row.max() > -np.inf
        if record["flags"] & HOST_ONLY or not is_valid:
            continue
        if record["flags"] & GREEDY or record["temperature"] == 0 or record["top_k"] == 1:
            tokens[s] = int(row.argmax())
            continue
        weights = kept_weights(row, record)
        sums = np.cumsum(weights, dtype=np.float64)
        u = uniform_at(int(record["seed"]), int(record["sequence_index"]), int(record["position"]))
        past = np.flatnonzero((sums > u * sums[-1]) & (weights > 0))
        tokens[s] = past[0] if len(past) else np.flatnonzero(weights)[-1]
    return tokens
