# SPDX-License-Identifier: Apache-2.0
"""Tiny random Hugging Face checkpoints, written with numpy alone.

A checkpoint made here is a directory that `transformers` loads with no missing and no unexpected
tensor, so one directory can be imported by the builder and executed by the reference. Weights are
scaled so that activations stay near 1 and logits have a standard deviation near 2: greedy tokens
are then decided by clear gaps, not by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .tokenizer import (
    BOS_TOKEN_ID,
    EOS_TOKEN_ID,
    TOKENIZER_VOCAB_SIZE,
    write_tiny_tokenizer,
)

FloatArray = npt.NDArray[np.float32]

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# The lengths before scaling lie below max_position_embeddings = 512, so that a test of a few
# hundred tokens reaches the scaled range.
ROPE_SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}

SAFETENSORS_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}


def write_tiny_checkpoint(
    directory: Path,
    family: str,
    *,
    seed: int = 0,
    dtype: str = "float32",
    num_layers: int = 2,
    hidden_size: int = 128,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate_size: int = 256,
    vocab_size: int = TOKENIZER_VOCAB_SIZE,
    rope_scaling: str | Mapping[str, Any] | None = None,
    rope_theta: float = 10000.0,
    sliding_window: int | None = None,
    tie: bool = False,
    num_shards: int = 1,
    max_position_embeddings: int = 512,
    config_style: str = "v4",
    config_overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a random checkpoint; the same arguments always give the same bytes.

    Args:
        directory: Created when missing; files of an earlier checkpoint are overwritten.
        family: "llama", "mistral", "qwen2" (QKV bias) or "qwen3" (QK norm).
        seed: Seeds every tensor together with the tensor's name, so that a tensor does not change
            when another one appears.
        dtype: "float32", "float16" or "bfloat16"; the values are drawn in float32 and rounded to
            nearest even.
        num_layers: Number of decoder layers.
        hidden_size: Width of the residual stream.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides `num_heads`.
        head_dim: Per-head width; None is hidden_size / num_heads, and then `config.json` leaves it
            out, except for qwen3, whose default in `transformers` is 128.
        intermediate_size: Width of the MLP.
        vocab_size: Rows of the embedding, at least the tokenizer's 320. Further rows have no token,
            as in published checkpoints that pad their vocabulary.
        rope_scaling: None, "linear", "yarn" or "llama3" (see `ROPE_SCALINGS`), or the dictionary.
        rope_theta: Base of the rotary frequencies.
        sliding_window: Attention window in tokens, or None. For qwen2 and qwen3 it also sets
            `use_sliding_window` and `max_window_layers: 0`; use `config_overrides` otherwise.
        tie: Whether the output projection is the embedding; `lm_head.weight` is then left out.
        num_shards: 1 writes `model.safetensors`; more write as many shards and their index.
        max_position_embeddings: As in `config.json`.
        config_style: "v4" writes `rope_theta`, `rope_scaling` and `torch_dtype`; "v5" writes
            `rope_parameters` and `dtype`, as `transformers` 5 saves them.
        config_overrides: Entries that replace or extend those of `config.json`, unchecked.

    Returns:
        `directory`.

    Raises:
        ValueError: An argument is not one of those named above.
    """
    if family not in ARCHITECTURES:
        raise ValueError(f"family: {family!r} is not one of {sorted(ARCHITECTURES)}")
    if dtype not in SAFETENSORS_DTYPES:
        raise ValueError(f"dtype: {dtype!r} is not one of {sorted(SAFETENSORS_DTYPES)}")
    if vocab_size < TOKENIZER_VOCAB_SIZE:
        raise ValueError(f"vocab_size: {vocab_size} is below the tokenizer's 320")
    if num_heads % num_kv_heads or (head_dim is None and hidden_size % num_heads):
        raise ValueError("num_kv_heads must divide num_heads, and num_heads hidden_size")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "attention_dropout": 0.0,
        "bos_token_id": BOS_TOKEN_ID,
        "eos_token_id": EOS_TOKEN_ID,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": max_position_embeddings,
        "num_attention_heads": num_heads,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": num_kv_heads,
        "rms_norm_eps": 1e-5 if family in ("llama", "mistral") else 1e-6,
        "tie_word_embeddings": tie,
        "use_cache": True,
        "vocab_size": vocab_size,
    }
    if head_dim is not None or family == "qwen3":
        config["head_dim"] = head_dim or hidden_size // num_heads
    config |= _family_config(family, sliding_window)
    config |= _styled_config(config_style, dtype, rope_theta, rope_scaling)
    config |= config_overrides or {}

    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config)
    _write_json(
        directory / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": BOS_TOKEN_ID, "eos_token_id": EOS_TOKEN_ID},
    )
    write_tiny_tokenizer(directory, adds_bos=family in ("llama", "mistral"))
    tensors = {
        name: encode_tensor(_draw(name, shape, seed), dtype)
        for name, shape in tensor_shapes(
            family,
            num_layers=num_layers,
            hidden_size=hidden_size,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim or hidden_size // num_heads,
            intermediate_size=intermediate_size,
            vocab_size=vocab_size,
            tie=tie,
        )
    }
    _write_shards(directory, tensors, dtype, num_shards)
    return directory


def tensor_shapes(
    family: str,
    *,
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    intermediate_size: int,
    vocab_size: int,
    tie: bool,
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields each tensor's checkpoint name and shape; linear weights are [out, in]."""
    yield "model.embed_tokens.weight", (vocab_size, hidden_size)
    for layer in range(num_layers):
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        for name, num in (("q", num_heads), ("k", num_kv_heads), ("v", num_kv_heads)):
            yield f"{attention}{name}_proj.weight", (num * head_dim, hidden_size)
            if family == "qwen2":
                yield f"{attention}{name}_proj.bias", (num * head_dim,)
        yield f"{attention}o_proj.weight", (hidden_size, num_heads * head_dim)
        if family == "qwen3":
            yield f"{attention}q_norm.weight", (head_dim,)
            yield f"{attention}k_norm.weight", (head_dim,)
        yield f"{prefix}mlp.gate_proj.weight", (intermediate_size, hidden_size)
        yield f"{prefix}mlp.up_proj.weight", (intermediate_size, hidden_size)
        yield f"{prefix}mlp.down_proj.weight", (hidden_size, intermediate_size)
        yield f"{prefix}input_layernorm.weight", (hidden_size,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden_size,)
    yield "model.norm.weight", (hidden_size,)
    if not tie:
        yield "lm_head.weight", (vocab_size, hidden_size)


def encode_tensor(values: FloatArray, dtype: str) -> npt.NDArray[Any]:
    """Rounds float32 `values` to `dtype`; bfloat16 comes back as its uint16 bit patterns."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16)
    # Round to nearest even: half of the last place kept, less one when that place is already even.
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(
    path: Path, tensors: Mapping[str, npt.NDArray[Any]], dtypes: Mapping[str, str]
) -> None:
    """Writes one safetensors file; `dtypes` gives each tensor's name in the format ("BF16", ...).

    The arrays' bytes are written as they are, so that tests can also store a tensor that lies.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": dtypes[name],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).tobytes())


def _family_config(family: str, sliding_window: int | None) -> dict[str, Any]:
    """The entries that only one family's `config.json` has."""
    if family == "llama":
        if sliding_window is not None:
            raise ValueError("sliding_window: llama has none")
        return {"attention_bias": False, "mlp_bias": False}
    if family == "mistral":
        return {"sliding_window": sliding_window}
    window = {
        "max_window_layers": 0,
        "sliding_window": sliding_window,
        "use_sliding_window": sliding_window is not None,
    }
    return window | ({"attention_bias": False} if family == "qwen3" else {})


def _styled_config(
    style: str, dtype: str, rope_theta: float, rope_scaling: str | Mapping[str, Any] | None
) -> dict[str, Any]:
    """The entries whose form depends on the major version of `transformers` that saved them."""
    if isinstance(rope_scaling, str):
        if rope_scaling not in ROPE_SCALINGS:
            raise ValueError(f"rope_scaling: {rope_scaling!r} is not one of {list(ROPE_SCALINGS)}")
        rope_scaling = ROPE_SCALINGS[rope_scaling]
    scaling = None if rope_scaling is None else dict(rope_scaling)
    if style == "v4":
        return {"rope_scaling": scaling, "rope_theta": rope_theta, "torch_dtype": dtype}
    if style == "v5":
        rope = {"rope_theta": rope_theta} | (scaling or {"rope_type": "default"})
        return {"dtype": dtype, "rope_parameters": rope}
    raise ValueError(f"config_style: {style!r} is not 'v4' or 'v5'")


def _draw(name: str, shape: tuple[int, ...], seed: int) -> FloatArray:
    """Draws one tensor in float32, from a stream keyed by the seed and the tensor's name."""
    stream = np.random.default_rng([seed, *name.encode()])
    values = stream.standard_normal(shape, dtype=np.float32)
    if "norm" in name:
        return np.float32(1) + np.float32(0.1) * values
    if name.endswith(".bias"):
        return np.float32(0.1) * values
    # The final norm leaves rows of norm sqrt(hidden_size), hence logits of deviation 2.
    gain = 2.0 if name in ("model.embed_tokens.weight", "lm_head.weight") else 1.0
    return np.float32(gain / shape[-1] ** 0.5) * values


def _write_shards(
    directory: Path, tensors: Mapping[str, npt.NDArray[Any]], dtype: str, num_shards: int
) -> None:
    """Writes the tensors in order, cut into `num_shards` runs of nearly equal count."""
    for stale in directory.glob("model*.safetensors*"):
        stale.unlink()
    names = list(tensors)
    if not 1 <= num_shards <= len(names):
        raise ValueError(f"num_shards: {num_shards} is not in [1, {len(names)}]")
    weight_code, _ = SAFETENSORS_DTYPES[dtype]
    codes = {name: "F32" if name.endswith("_scale") else weight_code for name in names}
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        begin, end = (len(names) * i // num_shards for i in (shard, shard + 1))
        file_name = (
            "model.safetensors"
            if num_shards == 1
            else f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        )
        chosen = {name: tensors[name] for name in names[begin:end]}
        write_safetensors(directory / file_name, chosen, {name: codes[name] for name in chosen})
        weight_map |= dict.fromkeys(chosen, file_name)
    if num_shards > 1:
        total_size = sum(array.nbytes for array in tensors.values())
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
