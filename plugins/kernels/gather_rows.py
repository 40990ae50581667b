# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The rows of the residual stream whose logits are wanted."""

from __future__ import annotations

import triton
import triton.language as tl

from .programmatic import wait_for_previous


@triton.jit
def gather_rows(x, logit_rows, out, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = x[logit_rows[i]].

    Grid: L * cdiv(COLUMNS, BLOCK). x [T, COLUMNS], logit_rows [L], out [L, COLUMNS].
    """
    wait_for_previous()
    blocks: tl.constexpr = tl.cdiv(COLUMNS, BLOCK)
    row = tl.program_id(0) // blocks
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = column < COLUMNS
    source = tl.load(logit_rows + row).to(tl.int64)
    value = tl.load(x + source * COLUMNS + column, mask=mask)
    tl.store(out + row.to(tl.int64) * COLUMNS + column, value, mask=mask)
