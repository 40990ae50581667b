# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011).

The numbers are those of the runtime's sampler (`runtime/src/sample/philox.h`): which side samples
does not change what is drawn. `tests/golden/philox.txt` fixes them.
"""

from __future__ import annotations

import triton
import triton.language as tl

MULTIPLIER_0 = tl.constexpr(0xD2511F53)
MULTIPLIER_1 = tl.constexpr(0xCD9E8D57)
# The Weyl sequences of the golden ratio and of sqrt(3) - 1.
WEYL_0 = tl.constexpr(0x9E3779B9)
WEYL_1 = tl.constexpr(0xBB67AE85)
LOW_WORD = tl.constexpr(0xFFFFFFFF)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Returns the four words of counter (c0..c3) and key (k0, k1); all are uint64 below 2^32."""
    for _ in range(10):
        product0 = c0 * MULTIPLIER_0
        product1 = c2 * MULTIPLIER_1
        c0 = (product1 >> 32) ^ c1 ^ k0
        c1 = product1 & LOW_WORD
        c2 = (product0 >> 32) ^ c3 ^ k1
        c3 = product0 & LOW_WORD
        k0 = (k0 + WEYL_0) & LOW_WORD
        k1 = (k1 + WEYL_1) & LOW_WORD
    return c0, c1, c2, c3


@triton.jit
def uniform_at(seed_low, seed_high, sequence_index, position):
    """Returns float64 in [0, 1), a multiple of 2^-53, of the four int32 words' bits."""
    c0 = position.to(tl.uint32, bitcast=True).to(tl.uint64)
    c1 = sequence_index.to(tl.uint32, bitcast=True).to(tl.uint64)
    k0 = seed_low.to(tl.uint32, bitcast=True).to(tl.uint64)
    k1 = seed_high.to(tl.uint32, bitcast=True).to(tl.uint64)
    zero = c0 - c0
    high, low, _, _ = philox4x32(c0, c1, zero, zero, k0, k1)
    bits = ((high << 32) | low) >> 11
    return bits.to(tl.int64).to(tl.float64) * 1.1102230246251565e-16  # 2^-53
