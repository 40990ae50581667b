# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Triton-language kernels of one MLP segment, for measuring what ahead-of-time cubins reach.

Weights are `[N, K]`; KIND, where it appears, is what activations are stored as: "fp16", "fp8"
(E4M3) or "int8", with `x_stored = x * inverse` rounded to it.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Adding and subtracting 1.5 * 2^23 rounds a float32 below 2^22 to the nearest even integer.
ROUND = tl.constexpr(12582912.0)


@triton.jit
def axpy(x, y, n, BLOCK: tl.constexpr):
    """y[i] = 2 * x[i] + 1."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(y + i, tl.load(x + i, mask=mask) * 2 + 1, mask=mask)


@triton.jit
def store_as(pointer, value, inverse, KIND: tl.constexpr):
    """Stores a float32 block as KIND."""
    if KIND == "fp16":
        tl.store(pointer, value.to(tl.float16))
    else:
        scaled = value * tl.load(inverse)
        if KIND == "fp8":
            scaled = tl.minimum(tl.maximum(scaled, -448.0), 448.0)
            tl.store(pointer, scaled.to(tl.float8e4nv))
        else:
            rounded = (tl.minimum(tl.maximum(scaled, -128.0), 127.0) + ROUND) - ROUND
            tl.store(pointer, rounded.to(tl.int8))


@triton.jit
def rms_norm(x, gamma, inverse, out, KIND: tl.constexpr, HIDDEN: tl.constexpr):
    """out[row] = x[row] / rms(x[row]) * gamma, a program per row; HIDDEN is a power of two."""
    i = tl.arange(0, HIDDEN)
    row = tl.program_id(0) * HIDDEN
    wide = tl.load(x + row + i).to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide) / HIDDEN + 1e-5)
    value = wide * factor * tl.load(gamma + i).to(tl.float32)
    store_as(out + row + i, value, inverse, KIND)


@triton.jit
def swiglu(gate_up, inverse, out, KIND: tl.constexpr, FFN: tl.constexpr, BLOCK: tl.constexpr):
    """out[row] = silu(gate_up[row, :FFN]) * gate_up[row, FFN:]; FFN is a multiple of BLOCK."""
    pid = tl.program_id(0)
    row = pid // (FFN // BLOCK)
    i = (pid % (FFN // BLOCK)) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(gate_up + row * 2 * FFN + i).to(tl.float32)
    up = tl.load(gate_up + row * 2 * FFN + FFN + i).to(tl.float32)
    store_as(out + row * FFN + i, gate * tl.sigmoid(gate) * up, inverse, KIND)


@triton.jit
def gemm(
    x, w, scale, residual, y, m,
    RESIDUAL: tl.constexpr, K: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y[m, N] = (x[m, K] @ w[N, K].T) * scale (+ residual), float16; BN divides N, BK divides K."""
    rows_total = tl.cdiv(m, BM)
    # Neighbouring programs share a block of w: it is read from L2, not from memory.
    pid = tl.program_id(0)
    rows = (pid % rows_total) * BM + tl.arange(0, BM)
    cols = (pid // rows_total) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    row_mask = rows[:, None] < m
    x_tile = x + rows[:, None] * K + depth[None, :]
    w_tile = w + cols[None, :] * K + depth[:, None]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for _ in range(0, K, BK):
        acc = tl.dot(tl.load(x_tile, mask=row_mask, other=0.0), tl.load(w_tile), acc, out_dtype=ACC)
        x_tile += BK
        w_tile += BK
    out = acc.to(tl.float32) * tl.load(scale + cols)[None, :]
    at = rows[:, None] * N + cols[None, :]
    if RESIDUAL:
        out += tl.load(residual + at, mask=row_mask, other=0.0).to(tl.float32)
    tl.store(y + at, out.to(tl.float16), mask=row_mask)
