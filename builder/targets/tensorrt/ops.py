# SPDX-License-Identifier: Apache-2.0
"""The kernels of the steps that are no segment: embedding, cache, attention, rows, sampling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginery.builder.engine.program import Program, Step
from enginery.builder.targets.tensorrt.kernels import POINTERS, KernelSet
from enginery.plugins.kernels import attention_tiles, tiles

# build dtype and KV cache dtype of the command line -> pointer type
KV_POINTERS = {
    "bfloat16": "*bf16",
    "float16": "*fp16",
    "fp8": "*fp8e4nv",
    "int8": "*i8",
}
# pointer type of a quantised cache -> kind by which tiles are chosen
CACHE_TILES = {"*fp8e4nv": "fp8", "*i8": "int8"}
PAGED_ATTENTION = (
    ("decode", attention_tiles.decode_tile),
    ("prefill", attention_tiles.prefill_tile),
)


def op_kernels(
    program: Program, kernels: KernelSet, capability: tuple[int, int]
) -> dict[str, dict[str, str | int]]:
    """Enters the kernels of a rank's steps and of sampling.

    Args:
        program: of the rank.
        kernels: takes the kernels.
        capability: compute capability, which decides the tiles.

    Returns:
        The kernels by operation and role, as `ops` in sku.json. Attention has an entry for every
        sliding window that occurs, `paged_attention@<window>`.
    """
    ops = _Ops(program.attributes, kernels, capability)
    found: dict[str, dict[str, str | int]] = {}
    for step in program.steps:
        if step.op == "embed":
            found["embed"] = ops.embed(step)
        elif step.op == "kv_append":
            found["kv_append"] = ops.kv_append(step)
        elif step.op == "paged_attention":
            window = step.attributes["sliding_window"]
            found[f"paged_attention@{window}"] = ops.paged_attention(step)
        elif step.op == "gather_rows":
            found["gather_rows"] = ops.gather_rows(step)
    return found | {"sample": ops.sample()}


class _Ops:
    """Makes the kernels of each operation from the sizes of a rank's program."""

    def __init__(
        self, attributes: Mapping[str, Any], kernels: KernelSet, capability: tuple[int, int]
    ) -> None:
        self.attributes = attributes
        self.kernels = kernels
        self.capability = capability
        self.act = KV_POINTERS[attributes["dtype"]]
        self.cache = KV_POINTERS[attributes["kv_cache_dtype"]]
        self.heads = {
            "NUM_HEADS": attributes["num_heads"],
            "NUM_KV_HEADS": attributes["num_kv_heads"],
            "HEAD_DIM": attributes["head_dim"],
        }

    def embed(self, step: Step) -> dict[str, str | int]:
        weight, scale = step.inputs
        assert weight is not None
        columns = step.outputs[0].columns
        tile = tiles.chunk_tile(columns)
        kernel = self.kernels.add(
            "embed",
            {
                "token_ids": "*i32",
                "weight": POINTERS[weight.dtype],
                "scale": None if scale is None else POINTERS[scale.dtype],
                "out": "*fp32",
            },
            {"COLUMNS": columns, "BLOCK": tile.block},
            num_warps=tile.num_warps,
        )
        return {"kernel": kernel}

    def gather_rows(self, step: Step) -> dict[str, str | int]:
        columns = step.outputs[0].columns
        tile = tiles.chunk_tile(columns)
        kernel = self.kernels.add(
            "gather_rows",
            {"x": "*fp32", "logit_rows": "*i32", "out": "*fp32"},
            {"COLUMNS": columns, "BLOCK": tile.block},
            num_warps=tile.num_warps,
        )
        return {"kernel": kernel}

    def sample(self) -> dict[str, str | int]:
        vocab = self.attributes["vocab_size"]
        tile = tiles.sample_tile(vocab)
        kernel = self.kernels.add(
            "sample",
            {"logits": "*fp32", "samples": "*i32", "token_ids": "*i32", "scratch": "*fp32"},
            {"VOCAB": vocab, "BLOCK": tile.block},
            num_warps=tile.num_warps,
        )
        return {"kernel": kernel}

    def kv_append(self, step: Step) -> dict[str, str | int]:
        _, _, q_norm, k_norm, k_scale, v_scale = step.inputs
        types = {
            "qkv": self.act,
            "inv_freq": "*fp32",
            **_optional(q_norm=q_norm, k_norm=k_norm, k_scale=k_scale, v_scale=v_scale),
            "positions": "*i32",
            "slot_mapping": "*i64",
            "k_cache": self.cache,
            "v_cache": self.cache,
        }
        constants = {
            "ROPE_SCALE": step.attributes["rope_scale"],
            "EPSILON": step.attributes["epsilon"],
            **self.heads,
            "HALF_BLOCK": power_of_two(self.heads["HEAD_DIM"] // 2),
            "TOKENS_PER_BLOCK": self.attributes["tokens_per_block"],
        }
        return {
            "kernel": self.kernels.add(
                "kv_append", types, constants, num_warps=attention_tiles.KV_APPEND_WARPS
            )
        }

    def paged_attention(self, step: Step) -> dict[str, str | int]:
        _, k_scale, v_scale = step.inputs
        types = {
            "qkv": self.act,
            "k_cache": self.cache,
            "v_cache": self.cache,
            **_optional(k_scale=k_scale, v_scale=v_scale),
            **dict.fromkeys(("work", "block_tables", "context_lens", "positions"), "*i32"),
            "partial": "*fp32",
            "partial_stats": "*fp32",
            "out": self.act,
            "table_width": "i32",
        }
        head_block = power_of_two(self.heads["HEAD_DIM"])
        group_block = power_of_two(self.heads["NUM_HEADS"] // self.heads["NUM_KV_HEADS"])
        roles: dict[str, str | int] = {}
        cache = CACHE_TILES.get(self.cache, "act")
        for role, find_tile in PAGED_ATTENTION:
            tile = find_tile(self.capability, cache, group_block)
            constants = {
                "SCALE": step.attributes["scale"],
                "SLIDING_WINDOW": step.attributes["sliding_window"],
                **self.heads,
                "HEAD_BLOCK": head_block,
                "GROUP_BLOCK": group_block,
                "TOKENS_PER_BLOCK": self.attributes["tokens_per_block"],
                "BLOCK_M": tile.block_m,
                "BLOCK_N": tile.block_n,
                "INTERPRET": False,
            }
            roles[role] = self.kernels.add(
                "paged_attention",
                types,
                constants,
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
        roles["combine"] = self.kernels.add(
            "combine",
            {"partial": "*fp32", "partial_stats": "*fp32", "merge": "*i32", "out": self.act},
            {
                "NUM_HEADS": self.heads["NUM_HEADS"],
                "HEAD_DIM": self.heads["HEAD_DIM"],
                "HEAD_BLOCK": head_block,
            },
            num_warps=attention_tiles.COMBINE_WARPS,
        )
        return roles | {"split_tokens": attention_tiles.SPLIT_TOKENS}


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


def _optional(**tensors: object) -> dict[str, str | None]:
    """float32 pointers by parameter, None for tensors that are not there."""
    return {name: None if tensor is None else "*fp32" for name, tensor in tensors.items()}
