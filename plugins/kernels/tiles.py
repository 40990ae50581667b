# SPDX-License-Identifier: Apache-2.0
"""Tile sizes, warps and stages of every kernel per compute capability: data, and how to pick.

A GEMM is compiled once per range of rows. Few rows: the weight is read once at the speed of memory,
so tiles are narrow (many programs) and deep (wide loads, many bytes on the way). Many rows: tiles
are as large as registers and shared memory allow. Ranges and tiles for compute capability 9.0 are
measured (benchmarks/results); elsewhere they follow from the sizes of the card.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

OPERANDS = ("act", "fp8", "int8", "int8_wo", "int4_wo")
"""What multiplies: act, fp8 or int8 with itself, or act with int8 or int4 weights."""

# Bytes of shared memory that a program may have.
SHARED_BYTES = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
INT4_GROUP = 128
MIN_BLOCK_K = 32  # elements; the depth of one instruction on 8-bit operands
# From this many columns on, wide tiles fill the card.
WIDE_COLUMNS = 8192


@dataclass(frozen=True)
class GemmTile:
    """One variant of `gemm` or `gemm_swiglu`, for up to `max_rows` rows."""

    max_rows: int | None
    """None: any number."""
    block_m: int
    block_n: int
    block_k: int
    """Elements."""
    num_warps: int
    num_stages: int
    group_m: int = 8

    def constants(self) -> dict[str, int]:
        """Returns the kernel's constants of this tile."""
        return {
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "BLOCK_K": self.block_k,
            "GROUP_M": self.group_m,
        }


@dataclass(frozen=True)
class RowTile:
    """Size of a kernel that goes along rows."""

    block: int
    num_warps: int


Tiles = tuple[GemmTile, ...]
Widths = tuple[Tiles, Tiles]
"""Tiles for weights of WIDE_COLUMNS and more, and for narrower ones; block_n of the product."""

# Measured on an H100; block_k in elements of the operands.
_HOPPER: dict[str, Widths] = {
    "act": (
        (
            GemmTile(16, 16, 16, 256, 2, 5),
            GemmTile(64, 64, 128, 64, 4, 6),
            GemmTile(None, 128, 256, 64, 8, 4),
        ),
        (
            GemmTile(16, 16, 32, 512, 4, 3),
            GemmTile(64, 64, 32, 256, 4, 4),
            GemmTile(256, 128, 64, 64, 4, 5),
            GemmTile(512, 128, 128, 64, 8, 4),
            GemmTile(None, 128, 256, 64, 8, 4),
        ),
    ),
    "fp8": (
        (
            GemmTile(16, 16, 16, 512, 2, 5),
            GemmTile(64, 64, 64, 128, 4, 6),
            GemmTile(None, 128, 256, 128, 8, 4),
        ),
        (
            GemmTile(16, 16, 32, 256, 4, 8),
            GemmTile(64, 64, 32, 512, 4, 4),
            GemmTile(512, 64, 128, 128, 4, 4),
            GemmTile(None, 128, 256, 128, 8, 4),
        ),
    ),
    "int8": (
        (
            GemmTile(16, 16, 16, 512, 2, 5),
            GemmTile(64, 64, 64, 128, 4, 6),
            GemmTile(None, 128, 256, 128, 8, 3),
        ),
        (
            GemmTile(16, 16, 32, 256, 4, 8),
            GemmTile(64, 64, 32, 512, 4, 4),
            GemmTile(512, 64, 128, 128, 4, 4),
            GemmTile(None, 128, 256, 128, 8, 3),
        ),
    ),
    "int8_wo": (
        (
            GemmTile(16, 16, 32, 256, 4, 4),
            GemmTile(64, 64, 64, 128, 4, 4),
            GemmTile(None, 256, 128, 64, 8, 3),
        ),
        (
            GemmTile(16, 16, 32, 256, 4, 6),
            GemmTile(64, 64, 32, 128, 4, 5),
            GemmTile(256, 128, 64, 128, 4, 4),
            GemmTile(512, 128, 128, 64, 8, 4),
            GemmTile(None, 256, 128, 64, 8, 3),
        ),
    ),
    "int4_wo": (
        (
            GemmTile(16, 16, 32, 128, 2, 8),
            GemmTile(64, 64, 128, 128, 8, 4),
            GemmTile(None, 128, 64, 128, 8, 3),
        ),
        (
            GemmTile(16, 16, 32, 128, 2, 8),
            GemmTile(64, 64, 32, 128, 4, 5),
            GemmTile(None, 128, 64, 128, 8, 3),
        ),
    ),
}

# For operands of 2 bytes; what others take is derived. Not measured.
_AMPERE: Widths = (
    (
        GemmTile(16, 16, 32, 256, 4, 4),
        GemmTile(32, 32, 64, 128, 4, 4),
        GemmTile(64, 64, 64, 128, 4, 4),
        GemmTile(None, 128, 128, 64, 8, 3),
    ),
    (
        GemmTile(16, 16, 32, 256, 4, 4),
        GemmTile(32, 32, 32, 128, 4, 4),
        GemmTile(64, 64, 32, 128, 4, 4),
        GemmTile(256, 64, 64, 64, 4, 4),
        GemmTile(None, 128, 128, 64, 8, 3),
    ),
)
_SMALL_SHARED: Widths = (
    (
        GemmTile(16, 16, 32, 256, 4, 4),
        GemmTile(32, 32, 64, 128, 4, 4),
        GemmTile(64, 64, 64, 64, 4, 4),
        GemmTile(None, 128, 128, 64, 8, 3),
    ),
    (
        GemmTile(16, 16, 32, 256, 4, 4),
        GemmTile(32, 32, 32, 128, 4, 4),
        GemmTile(64, 64, 32, 128, 4, 4),
        GemmTile(256, 64, 64, 64, 4, 4),
        GemmTile(None, 128, 128, 64, 8, 3),
    ),
)


def _derived(widths: Widths) -> dict[str, Widths]:
    """Tiles for every kind of operands from those for operands of 2 bytes."""

    def convert(operands: str, tile: GemmTile) -> GemmTile:
        if operands in ("fp8", "int8"):
            return dataclasses.replace(tile, block_k=2 * tile.block_k)
        if operands == "int4_wo":
            # A group of weights takes few bytes: more of them on the way. Its sums take registers.
            return dataclasses.replace(
                tile,
                block_m=min(tile.block_m, 64),
                block_n=min(tile.block_n, 64),
                block_k=INT4_GROUP,
                num_warps=4,
                num_stages=8 if tile.block_m == 16 else 3,
            )
        return tile

    return {
        operands: (
            tuple(convert(operands, tile) for tile in widths[0]),
            tuple(convert(operands, tile) for tile in widths[1]),
        )
        for operands in OPERANDS
    }


def _blackwell(operands: str, tiles: Tiles) -> Tiles:
    """Hopper's, changed where results would leave tensor memory through too few registers."""
    out: list[GemmTile] = []
    for tile in tiles:
        if tile.block_m * tile.block_n > 128 * 128:
            tile = GemmTile(tile.max_rows, 128, 128, tile.block_k, 8, 4)
        elif operands == "int8_wo" and tile.block_m == tile.block_n == 64:
            tile = dataclasses.replace(tile, num_warps=8)
        if out and dataclasses.replace(out[-1], max_rows=tile.max_rows) == tile:
            out.pop()
        out.append(tile)
    return tuple(out)


_GEMM: dict[int, dict[str, Widths]] = {
    80: _derived(_AMPERE),
    86: _derived(_SMALL_SHARED),
    89: _derived(_SMALL_SHARED),
    90: _HOPPER,
    100: {
        operands: (_blackwell(operands, wide), _blackwell(operands, narrow))
        for operands, (wide, narrow) in _HOPPER.items()
    },
    120: _derived(_SMALL_SHARED),
}


def gemm_variants(capability: tuple[int, int], operands: str, n: int, k: int) -> list[GemmTile]:
    """Returns the variants of `gemm` for a weight [n, k], by growing `max_rows`.

    Raises:
        ValueError: no tiles are known for the compute capability, or `operands` is unknown.
    """
    return _variants(capability, operands, n, k)


def swiglu_variants(capability: tuple[int, int], operands: str, f: int, k: int) -> list[GemmTile]:
    """Returns the variants of `gemm_swiglu` for a weight [2f, k]; `block_n` counts columns of y.

    Raises:
        ValueError: as `gemm_variants`.
    """
    return [
        dataclasses.replace(tile, block_n=tile.block_n // 2)
        for tile in _variants(capability, operands, 2 * f, k)
    ]


def row_tile(columns: int) -> RowTile:
    """Returns the block of a kernel that holds a whole row, `rms_norm`."""
    block = _power_of_two(columns)
    return RowTile(block, min(max(block // 512, 1), 16))


def chunk_tile(columns: int) -> RowTile:
    """Returns the block of a kernel that splits rows: embed, quantize, add and the like."""
    block = min(_power_of_two(columns), 1024)
    return RowTile(block, min(max(block // 256, 1), 4))


def sample_tile(vocab: int) -> RowTile:
    """Returns the block of `sample`, which is also what its scratch memory holds per sample."""
    block = min(_power_of_two(vocab), 4096)
    return RowTile(block, min(max(block // 256, 1), 16))


def _variants(capability: tuple[int, int], operands: str, n: int, k: int) -> list[GemmTile]:
    family = 10 * capability[0] + capability[1]
    if family not in _GEMM:
        known = ", ".join(f"{c // 10}.{c % 10}" for c in sorted(_GEMM))
        raise ValueError(
            f"compute capability {capability[0]}.{capability[1]} has no tiles; those of {known} do"
        )
    if operands not in OPERANDS:
        raise ValueError(f"operands {operands!r} is not one of {OPERANDS}")
    wide, narrow = _GEMM[family][operands]
    return [_fit(tile, operands, k) for tile in (wide if n >= WIDE_COLUMNS else narrow)]


def _fit(tile: GemmTile, operands: str, k: int) -> GemmTile:
    """Halves the depth of a step until it divides `k`, so that no load needs a mask."""
    block_k = tile.block_k
    while operands != "int4_wo" and k % block_k and block_k > MIN_BLOCK_K:
        block_k //= 2
    return dataclasses.replace(tile, block_k=block_k)


def _power_of_two(n: int) -> int:
    """Returns the least power of two that is at least `n` and at least 32."""
    return max(32, 1 << (n - 1).bit_length())
