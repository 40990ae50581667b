# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Embedding rows of a step's tokens, as float32."""

from __future__ import annotations

import triton
import triton.language as tl

from .programmatic import wait_for_previous


@triton.jit
def embed(token_ids, weight, scale, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """out[t] = weight[token_ids[t]], times scale[token_ids[t]] where there is one.

    Grid: T * cdiv(COLUMNS, BLOCK). token_ids [T], weight [vocab, COLUMNS], scale [vocab] or None,
    out [T, COLUMNS].
    """
    wait_for_previous()
    blocks: tl.constexpr = tl.cdiv(COLUMNS, BLOCK)
    token = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = column < COLUMNS
    # vocab * COLUMNS passes 2^31 in the largest models.
    row = tl.load(token_ids + token).to(tl.int64)
    value = tl.load(weight + row * COLUMNS + column, mask=mask).to(tl.float32)
    if scale is not None:
        value *= tl.load(scale + row).to(tl.float32)
    tl.store(out + token.to(tl.int64) * COLUMNS + column, value, mask=mask)
