# SPDX-License-Identifier: Apache-2.0
"""The attention kernels as every card would run them, compiled without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginery.plugins.kernels.attention_tiles import SPLIT_TOKENS, decode_tile, prefill_tile
from enginery.plugins.kernels.jobs import CompileJob, compile_jobs
from enginery.plugins.kernels.tiles import SHARED_BYTES

POINTERS = {"act": "*bf16", "int8": "*i8", "fp8": "*fp8e4nv"}
CAPABILITIES = [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


def attention_job(
    role: str, capability: tuple[int, int], kv: str, head_dim: int = 128, window: int = 0
) -> CompileJob:
    """A kernel for 32 query heads and 8 key-value heads."""
    tile = {"decode": decode_tile, "prefill": prefill_tile}[role](capability, kv, 4)
    types = dict.fromkeys(("work", "block_tables", "context_lens", "positions"), "*i32")
    types |= {"qkv": "*bf16", "out": "*bf16", "k_cache": POINTERS[kv], "v_cache": POINTERS[kv]}
    types |= {"partial": "*fp32", "partial_stats": "*fp32", "table_width": "i32"}
    constants: dict[str, int | float | bool | str | None] = {
        "SCALE": head_dim**-0.5, "SLIDING_WINDOW": window, "NUM_HEADS": 32, "NUM_KV_HEADS": 8,
        "HEAD_DIM": head_dim, "HEAD_BLOCK": 1 << (head_dim - 1).bit_length(), "GROUP_BLOCK": 4,
        "TOKENS_PER_BLOCK": 32, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
        "INTERPRET": False,
    }  # fmt: skip
    if kv == "act":
        constants |= {"k_scale": None, "v_scale": None}
    else:
        types |= {"k_scale": "*fp32", "v_scale": "*fp32"}
    name = f"{role}_{capability[0]}{capability[1]}_{kv}_{head_dim}_{window}"
    return CompileJob(
        name, "paged_attention", types, constants, capability, tile.num_warps, tile.num_stages
    )


def check(jobs: list[CompileJob], folder: Path) -> None:
    for job, kernel in zip(jobs, compile_jobs(jobs, folder, workers=2), strict=True):
        assert kernel.spill_bytes == 0, f"{job.name}: {kernel.spill_bytes} bytes spilled"
        limit = SHARED_BYTES[10 * job.capability[0] + job.capability[1]]
        assert kernel.shared_bytes <= limit, f"{job.name}: {kernel.shared_bytes} shared"
        wanted = {9: "wgmma", 10: "tcgen05"}.get(job.capability[0], "mma.sync")
        expected = wanted if job.name.startswith("prefill") else "mma.sync"
        assert kernel.instructions == (expected,), job.name


def test_tiles_divide_splits() -> None:
    for capability in CAPABILITIES:
        for kv in ("act", "int8"):
            assert SPLIT_TOKENS % decode_tile(capability, kv, 1).block_n == 0
            assert decode_tile(capability, kv, 64).block_m == 64


def test_unknown_cards_are_refused() -> None:
    with pytest.raises(ValueError, match=r"7\.5 has no tiles; those of 8\.0, .* do"):
        decode_tile((7, 5), "act", 4)
    with pytest.raises(ValueError, match=r"'fp8' has no tiles for compute capability 8\.0"):
        prefill_tile((8, 0), "fp8", 4)


def test_kernels_of_every_generation(tmp_path: Path) -> None:
    roles, generations = ("decode", "prefill"), [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]
    check([attention_job(role, card, "act") for card in generations for role in roles], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"{c[0]}{c[1]}")
def test_every_kernel(capability: tuple[int, int], tmp_path: Path) -> None:
    """Every tile; and of the build dtype's the padded head dimensions and a sliding window."""
    types = [kv for kv in POINTERS if kv != "fp8" or capability >= (8, 9)]
    jobs = []
    for role in ("decode", "prefill"):
        jobs += [attention_job(role, capability, kv) for kv in types]
        jobs += [attention_job(role, capability, "act", head_dim) for head_dim in (64, 80, 96)]
        jobs.append(attention_job(role, capability, "act", window=4096))
    check(jobs, tmp_path)
