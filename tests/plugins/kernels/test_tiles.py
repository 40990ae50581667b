# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enginery.plugins.kernels import tiles

CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("operands", tiles.OPERANDS)
@pytest.mark.parametrize("n,k", [(4096, 4096), (28672, 4096), (896, 4864), (1152, 128), (64, 128)])
def test_variants_cover_every_number_of_rows(
    capability: tuple[int, int], operands: str, n: int, k: int
) -> None:
    variants = tiles.gemm_variants(capability, operands, n, k)
    limits = [tile.max_rows for tile in variants]
    assert limits[-1] is None
    bounded = [limit for limit in limits[:-1] if limit is not None]
    assert len(bounded) == len(limits) - 1 and bounded == sorted(set(bounded))
    assert len(variants) <= 5
    for tile in variants:
        assert k % tile.block_k == 0
        assert operands != "int4_wo" or tile.block_k == 128


def test_swiglu_has_half_the_columns() -> None:
    for one, two in zip(
        tiles.gemm_variants((9, 0), "act", 28672, 4096),
        tiles.swiglu_variants((9, 0), "act", 14336, 4096),
        strict=True,
    ):
        assert two.block_n == one.block_n // 2


def test_decode_of_a_narrow_weight_fills_the_card() -> None:
    for capability in CAPABILITIES:
        tile = tiles.gemm_variants(capability, "act", 4096, 4096)[0]
        assert -(-4096 // tile.block_n) >= 128


def test_unknown_capability_and_operands() -> None:
    with pytest.raises(ValueError, match=r"7\.5 has no tiles; those of 8\.0, 8\.6"):
        tiles.gemm_variants((7, 5), "act", 64, 64)
    with pytest.raises(ValueError, match="operands 'fp4' is not one of"):
        tiles.gemm_variants((9, 0), "fp4", 64, 64)


@pytest.mark.parametrize("columns", [1, 64, 111, 4096, 8192, 28672])
def test_row_blocks(columns: int) -> None:
    assert tiles.row_tile(columns).block >= columns
    assert tiles.chunk_tile(columns).block <= 1024
    assert tiles.sample_tile(columns).block <= 4096
