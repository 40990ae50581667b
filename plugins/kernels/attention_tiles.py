# SPDX-License-Identifier: Apache-2.0
"""Tile sizes, warps and stages of the attention kernels per compute capability: data.

Those of 9.0 are measured on an H100 (32 query heads, 8 key-value heads, head_dim 128): decode of 64
sequences of 4096 tokens reads a bfloat16 cache at 3.0 TB/s and an fp8 cache at 2.8 TB/s, prefill of
a bfloat16 cache runs at 385 to 425 TFLOP/s. The decode of an int8 cache there, and everything
elsewhere, is not measured: the largest tiles of that kind that need no spilled register and fit in
shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass

KV_TYPES = ("act", "int8", "fp8")
"""What a cache holds: the build dtype, or 8 bits with a scale."""

SPLIT_TOKENS = 512
"""Keys of a split of a decode; a multiple of every block_n. H100: 256 costs one sequence of 32,768
tokens a tenth more, 1024 leaves half of the card idle for one of 8192."""

KV_APPEND_WARPS = 2
"""H100, 2048 tokens: 12 us, with 4 warps 17 us."""

COMBINE_WARPS = 4

MMA_ROWS = 16
"""Rows of the smallest matrix product."""


@dataclass(frozen=True)
class AttentionTile:
    """One instance of `paged_attention`."""

    block_m: int
    """Rows: queries times GROUP_BLOCK."""
    block_n: int
    """Keys of a step of the loop."""
    num_warps: int
    num_stages: int


# A decode is bound by the cache: many small programs, each with several tiles on the way. 8-bit
# tiles are converted in registers, of which narrow ones take fewer.
_DECODE = {
    "act": AttentionTile(MMA_ROWS, 64, 4, 2),
    "int8": AttentionTile(MMA_ROWS, 32, 2, 4),
    "fp8": AttentionTile(MMA_ROWS, 32, 2, 4),
}
_PREFILL_80 = {"act": AttentionTile(128, 64, 8, 3), "int8": AttentionTile(64, 64, 4, 3)}
_PREFILL_SMALL_SHARED = {kv: AttentionTile(128, 32, 8, 3) for kv in KV_TYPES}
_PREFILL_90 = {
    "act": AttentionTile(128, 64, 8, 3),
    "int8": AttentionTile(128, 128, 8, 2),
    "fp8": AttentionTile(128, 128, 8, 2),
}
_PREFILL_100 = {kv: AttentionTile(128, 64, 8, 3) for kv in KV_TYPES}
_PREFILL: dict[int, dict[str, AttentionTile]] = {
    80: _PREFILL_80,
    86: _PREFILL_SMALL_SHARED,
    89: _PREFILL_SMALL_SHARED,
    90: _PREFILL_90,
    100: _PREFILL_100,
    120: _PREFILL_SMALL_SHARED,
}


def decode_tile(capability: tuple[int, int], kv: str, group_block: int) -> AttentionTile:
    """Returns the tile of items of one query each.

    Args:
        capability: compute capability.
        kv: of `KV_TYPES`.
        group_block: query heads per key-value head, the next power of two.

    Raises:
        ValueError: no tiles are known for the capability or the type.
    """
    _prefill(capability, kv)  # the same ones are known
    tile = _DECODE[kv]
    return AttentionTile(
        max(tile.block_m, group_block), tile.block_n, tile.num_warps, tile.num_stages
    )


def prefill_tile(capability: tuple[int, int], kv: str, group_block: int) -> AttentionTile:
    """Returns the tile of items of up to block_m / group_block queries; arguments as above.

    Raises:
        ValueError: no tiles are known for the capability or the type.
    """
    tile = _prefill(capability, kv)
    return AttentionTile(
        max(tile.block_m, group_block), tile.block_n, tile.num_warps, tile.num_stages
    )


def _prefill(capability: tuple[int, int], kv: str) -> AttentionTile:
    family = 10 * capability[0] + capability[1]
    if family not in _PREFILL:
        known = ", ".join(f"{number / 10:.1f}" for number in sorted(_PREFILL))
        raise ValueError(
            f"compute capability {capability[0]}.{capability[1]} has no tiles; those of {known} do"
        )
    if kv not in _PREFILL[family]:
        known = ", ".join(_PREFILL[family])
        raise ValueError(f"kv {kv!r} has no tiles for compute capability {family / 10}: {known} do")
    return _PREFILL[family][kv]
