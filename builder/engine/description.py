# SPDX-License-Identifier: Apache-2.0
"""`config.json` and `manifest.json` of an engine directory.

`config.json` keeps TensorRT-LLM's names, so that what reads its engines' limits reads ours.
`manifest.json` says where the engine came from and what its files must be.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.engine.container import FORMAT_VERSION
from enginery.builder.engine.directory import MANIFEST_FILE, MANIFEST_KIND
from enginery.builder.hashing import sha256_of_file
from enginery.builder.memory_plan import MemoryPlan
from enginery.builder.options import BuildOptions
from enginery.quantization import SCHEMES

MANIFEST_VERSION = 1
# In TensorRT-LLM's words; a KV cache of floats has none.
KV_CACHE_QUANT_ALGOS = {"fp8": "FP8", "int8": "INT8"}


def engine_config(
    config: ModelConfig, options: BuildOptions, excluded: Sequence[str], version: str
) -> dict[str, Any]:
    """Returns `config.json`.

    Args:
        config: of the checkpoint.
        options: in effect.
        excluded: modules that stay in the build dtype though the scheme quantises their kind.
        version: of the builder.
    """
    rope = config.raw.get("rope_parameters") or config.raw.get("rope_scaling")
    return {
        "version": version,
        "pretrained_config": {
            "architecture": config.family.architecture,
            "dtype": options.dtype,
            "logits_dtype": "float32",
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_size": config.head_dim,
            "hidden_act": "silu",
            "intermediate_size": config.intermediate_size,
            "norm_epsilon": config.norm_epsilon,
            "position_embedding_type": "rope_gpt_neox",
            "rotary_base": config.rope.theta,
            "rotary_scaling": rope if config.rope.rope_type != "default" else None,
            "qk_layernorm": config.family.qk_norm,
            "use_parallel_embedding": False,
            "mapping": {
                "world_size": options.tp_size,
                "tp_size": options.tp_size,
                "pp_size": 1,
            },
            "quantization": {
                "quant_algo": SCHEMES[options.qformat].quant_algo,
                "kv_cache_quant_algo": KV_CACHE_QUANT_ALGOS.get(options.kv_cache_dtype),
                "exclude_modules": list(excluded),
            },
        },
        "build_config": {
            "max_input_len": options.max_input_len,
            "max_seq_len": options.max_seq_len,
            "max_batch_size": options.max_batch_size,
            "max_beam_width": 1,
            "max_num_tokens": options.max_num_tokens,
            "kv_cache_type": "paged",
            "gather_context_logits": False,
            "gather_generation_logits": False,
            "plugin_config": {"tokens_per_block": options.tokens_per_block},
        },
    }


def checkpoint_identity(directory: Path, weight_files: list[Path]) -> dict[str, Any]:
    """Returns the name and hashes of a checkpoint; reads every byte of its weights."""
    return {
        "name": directory.resolve().name,
        "config_sha256": sha256_of_file(directory / "config.json"),
        "weights": [_file_entry(path) for path in weight_files],
    }


def manifest(
    directory: Path,
    *,
    target: str,
    variant: str,
    options: BuildOptions,
    checkpoint: dict[str, Any],
    calibration: Mapping[str, Any] | None,
    plans: Mapping[str, MemoryPlan],
    version: str,
    compiled: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns `manifest.json` for the files that stand in `directory`, which it hashes.

    Args:
        directory: of the engine, complete but for the manifest.
        target: as in the engine's header.
        variant: likewise.
        options: in effect.
        checkpoint: from `checkpoint_identity`.
        calibration: what the checkpoint says of its calibration; None where it says nothing.
        plans: memory of the engine by SKU; `memory_plan` is that of the smallest.
        version: of the builder.
        compiled: entries that the target's artifacts add; its `built_with` joins ours.
    """
    files = sorted(path for path in directory.iterdir() if path.name != MANIFEST_FILE)
    scheme = SCHEMES[options.qformat]
    smallest = min(plans.values(), key=lambda plan: plan.memory_bytes)
    by_sku = {name: plan.to_json() for name, plan in plans.items()}
    return {
        "kind": MANIFEST_KIND,
        "manifest_version": MANIFEST_VERSION,
        "format_version": FORMAT_VERSION,
        "target": target,
        "sku": options.sku,
        "variant": variant,
        "tp_size": options.tp_size,
        "built_with": {
            "enginery": version,
            "numpy": np.__version__,
            "python": platform.python_version(),
            **compiled.get("built_with", {}),
        },
        "checkpoint": checkpoint,
        "quantization": {
            "qformat": options.qformat,
            "weight_dtype": scheme.weight_dtype or options.dtype,
            "activation_dtype": scheme.activation_dtype or options.dtype,
            "kv_cache_dtype": options.kv_cache_dtype,
            "calibration": calibration,
        },
        **{name: entry for name, entry in compiled.items() if name != "built_with"},
        "memory_plan": smallest.to_json(),
        **({"memory_plans": by_sku} if len(plans) > 1 else {}),
        "files": [_file_entry(path) for path in files],
    }


def _file_entry(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
