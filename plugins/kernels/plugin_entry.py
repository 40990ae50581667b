# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Paged attention with the parameters in the order of a TensorRT plugin: inputs, sizes, output."""

from __future__ import annotations

import triton
import triton.language as tl

from .paged_attention import paged_attention


@triton.jit
def paged_attention_entry(
    qkv, k_cache, v_cache, work, block_tables, context_lens, positions, table_width, out,
    SCALE: tl.constexpr, SLIDING_WINDOW: tl.constexpr, NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_BLOCK: tl.constexpr,
    GROUP_BLOCK: tl.constexpr, TOKENS_PER_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`paged_attention` over caches of the build dtype, without splits."""
    paged_attention(
        qkv, k_cache, v_cache, None, None, work, block_tables, context_lens, positions, None,
        None, out, table_width, SCALE, SLIDING_WINDOW, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM,
        HEAD_BLOCK, GROUP_BLOCK, TOKENS_PER_BLOCK, BLOCK_M, BLOCK_N, False,
    )  # fmt: skip
