# SPDX-License-Identifier: Apache-2.0
"""A step's attention as the kernels take it, and the plan of its work that a host would make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_attention import Heads, paged_attention

PADDING_ITEM = [0, 0, 0, 0, 0, 0, 0, 0]


def power_of_two_from(n: int) -> int:
    return 1 << (n - 1).bit_length()


@dataclass
class AttentionBatch:
    """Sequences given as (computed tokens, scheduled tokens): decodes schedule one."""

    sequences: list[tuple[int, int]]
    heads: Heads
    act: str = "bfloat16"
    kv: str = "bfloat16"
    sliding_window: int = 0
    tokens_per_block: int = 4
    block_m: int = 16
    block_n: int = 16
    split: int = 0
    """Keys of a decode's split; 0: never split."""
    seed: int = 0
    scale: float = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        heads, dim = self.heads, self.heads.head_dim
        self.scale = dim**-0.5
        scheduled = [count for _, count in self.sequences]
        self.first_tokens = np.cumsum([0, *scheduled])
        self.owner = np.repeat(np.arange(len(scheduled)), scheduled)
        self.positions = np.concatenate(
            [np.arange(computed, computed + count) for computed, count in self.sequences]
        ).astype(np.int32)
        self.context_lens = np.array([a + b for a, b in self.sequences], np.int32)
        columns = (heads.num_heads + 2 * heads.num_kv_heads) * dim
        qkv = rng.standard_normal((len(self.positions), columns), np.float32)
        # As a projection's output: peaked softmax, where an error of order would show.
        qkv[:, : heads.num_heads * dim] *= 2
        self.qkv = torch.from_numpy(qkv).to(getattr(torch, self.act))
        blocks = -(-self.context_lens // self.tokens_per_block)
        self.tables = np.full((len(scheduled), int(blocks.max()) + 1), -1, np.int32)
        shuffled = rng.permutation(int(blocks.sum()) + 2)
        shape = (2, len(shuffled), heads.num_kv_heads, self.tokens_per_block, dim)
        values = rng.standard_normal(shape).astype(np.float32)
        written = np.zeros(shape[1:4], bool)
        for row, count in enumerate(blocks):
            self.tables[row, :count] = shuffled[:count]
            shuffled = shuffled[count:]
            slots = np.arange(self.context_lens[row])
            block = self.tables[row, slots // self.tokens_per_block]
            written[block, :, slots % self.tokens_per_block] = True
        self.kv_scale = {"int8": 0.02, "float8_e4m3fn": 0.5}.get(self.kv)
        values /= np.float32(self.kv_scale or 1.0)
        if self.kv == "int8":
            values = values.round().clip(-128, 127)
        else:
            values[:, ~written] = np.nan  # what no token wrote may be anything
        self.caches = torch.from_numpy(values).to(getattr(torch, self.kv))

    def expected(self) -> npt.NDArray[np.float32]:
        caches = np.nan_to_num(self.caches.float().numpy()) * np.float32(self.kv_scale or 1.0)
        return paged_attention(
            self.qkv.float().numpy(), caches[0], caches[1], self.tables, self.positions,
            self.owner, scale=self.scale, sliding_window=self.sliding_window, heads=self.heads,
        )  # fmt: skip

    def plan(self) -> tuple[list[list[int]], list[list[int]]]:
        """Returns rows of `work`, with padding between them, and rows of `merge`."""
        group = power_of_two_from(self.heads.num_heads // self.heads.num_kv_heads)
        queries = self.block_m // group
        work, merge, next_partial = [PADDING_ITEM], [[0, 0, 0, 0]], 0
        for row, (_, count) in enumerate(self.sequences):
            first, context = int(self.first_tokens[row]), int(self.context_lens[row])
            if count == 1 and self.split and context > self.split:
                begins = range(0, context, self.split)
                merge.append([first, next_partial, len(begins), 0])
                for begin in begins:
                    end = begin + self.split
                    work.append([row, first, 1, begin, end, next_partial, 0, 0])
                    next_partial += 1
                continue
            for at in range(0, count, queries):
                work.append([row, first + at, min(queries, count - at), 0, context, -1, 0, 0])
            work.append(PADDING_ITEM)
        return work, merge

    def run(self) -> Any:
        """Returns what the kernels write, float32 [T, heads d]; NaN where they write nothing."""
        heads, dim = self.heads, self.heads.head_dim
        work, merge = self.plan()
        partials = max(1, sum(row[2] for row in merge))
        partial = torch.full((partials, heads.num_heads, dim), float("nan"))
        stats = torch.full((partials, heads.num_heads, 2), float("nan"))
        out = torch.full((len(self.positions), heads.num_heads * dim), float("nan"))
        out = out.to(getattr(torch, self.act))
        scale = None if self.kv_scale is None else torch.tensor([self.kv_scale])
        spec.load("paged_attention")[(len(work) * heads.num_kv_heads,)](
            self.qkv, self.caches[0], self.caches[1], scale, scale,
            torch.tensor(work, dtype=torch.int32), torch.from_numpy(self.tables),
            torch.from_numpy(self.context_lens), torch.from_numpy(self.positions),
            partial, stats, out, self.tables.shape[1],
            SCALE=self.scale, SLIDING_WINDOW=self.sliding_window, NUM_HEADS=heads.num_heads,
            NUM_KV_HEADS=heads.num_kv_heads, HEAD_DIM=dim, HEAD_BLOCK=power_of_two_from(dim),
            GROUP_BLOCK=power_of_two_from(heads.num_heads // heads.num_kv_heads),
            TOKENS_PER_BLOCK=self.tokens_per_block, BLOCK_M=self.block_m, BLOCK_N=self.block_n,
            INTERPRET=True,
        )  # fmt: skip
        spec.load("combine")[(len(merge) * heads.num_heads,)](
            partial, stats, torch.tensor(merge, dtype=torch.int32), out,
            NUM_HEADS=heads.num_heads, HEAD_DIM=dim, HEAD_BLOCK=power_of_two_from(dim),
        )  # fmt: skip
        return out.float().numpy()
