# SPDX-License-Identifier: Apache-2.0
"""Writes Hugging Face checkpoints of real shapes with random weights, for measuring speed.

    python benchmarks/random_checkpoint.py qwen2.5-0.5b /tmp/qwen2.5-0.5b

Names, shapes and configuration fields are those of the published model; only weights and tokenizer
differ. Tensors are streamed to disk in blocks, so memory stays near 100 MB whatever
the size of the model. The tokenizer is the demo's, filled up to the vocabulary: text round-trips,
and every token id decodes to something.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo"
NUM_BYTE_TOKENS = 256  # A byte-level vocabulary begins with one token per byte value.
BLOCK_SIZE = 1 << 22  # Elements drawn and written at a time.
DEFAULT_MAX_SHARD_BYTES = 5_000_000_000  # As `transformers` cuts checkpoints.


def _llama(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "max_position_embeddings": 2048,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    } | shape


def _llama3(factor: float, **shape: Any) -> dict[str, Any]:
    rope_scaling = {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    position = {"max_position_embeddings": 131072, "rope_theta": 500000.0}
    return _llama(**position, rope_scaling=rope_scaling, **shape)


def _mistral(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
    } | shape


def _qwen2(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 32768,
        "max_window_layers": shape["num_hidden_layers"],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "use_mrope": False,
        "use_sliding_window": False,
    } | shape


def _qwen3(**shape: Any) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "max_window_layers": shape["num_hidden_layers"],
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
    } | shape


def _size(
    num_layers: int, hidden_size: int, heads: tuple[int, int], ffn: int, vocab_size: int
) -> dict[str, int]:
    """The size fields; `heads` is (query heads, key-value heads)."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": ffn,
        "num_attention_heads": heads[0],
        "num_hidden_layers": num_layers,
        "num_key_value_heads": heads[1],
        "vocab_size": vocab_size,
    }


_TINY = _size(2, 128, (4, 2), 256, 512)

SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama-1.1b": _llama(**_size(22, 2048, (32, 4), 5632, 32000)),
    "llama-3.2-1b": _llama3(
        32.0, head_dim=64, tie_word_embeddings=True, **_size(16, 2048, (32, 8), 8192, 128256)
    ),
    "llama-3.1-8b": _llama3(8.0, **_size(32, 4096, (32, 8), 14336, 128256)),
    "mistral-like": _mistral(**_size(16, 2048, (32, 8), 7168, 32000)),
    "qwen2.5-0.5b": _qwen2(**_size(24, 896, (14, 2), 4864, 151936)),
    "qwen3-0.6b": _qwen3(**_size(28, 1024, (16, 8), 3072, 151936)),
    "tiny-llama": _llama(**_TINY),
    "tiny-llama3": _llama3(8.0, head_dim=64, tie_word_embeddings=True, **_TINY),
    "tiny-mistral": _mistral(**_TINY | {"sliding_window": 64}),
    "tiny-qwen2": _qwen2(**_TINY),
    "tiny-qwen3": _qwen3(**_TINY),
}


def write_random_checkpoint(
    name_or_shape: str | Mapping[str, Any],
    directory: Path,
    seed: int = 0,
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES,
    *,
    input_scales: bool = False,
    kv_scales: bool = False,
) -> Path:
    """Writes a bfloat16 checkpoint; the same arguments always give the same bytes.

    Weights are normal with variance 1 / fan_in, so that activations stay near 1; the output
    projection has four times that, for logits of standard deviation 2; norms lie around 1.

    Args:
        name_or_shape: A key of `SHAPES`, or the fields of a config.json of one of its families.
        directory: Created when missing. config.json is written last: where it is, all is there.
        seed: Seeds every tensor, together with its name.
        max_shard_bytes: A shard is closed before the tensor that would exceed this size; a larger
            tensor gets its own. One shard is written as model.safetensors, without index.
        input_scales: Whether a float32 scale of its activations stands beside every linear layer of
            the blocks, as calibration for int8 or fp8 leaves it.
        kv_scales: Whether scales of keys and values stand beside every layer.

    Returns:
        `directory`.

    Raises:
        ValueError: The name is unknown, the vocabulary is smaller than the byte-level alphabet with
            the special tokens, or `max_shard_bytes` is not positive.
    """
    if isinstance(name_or_shape, str):
        if name_or_shape not in SHAPES:
            raise ValueError(f"shape: {name_or_shape!r} is not one of {', '.join(SHAPES)}")
        name_or_shape = SHAPES[name_or_shape]
    if max_shard_bytes <= 0:
        raise ValueError(f"max_shard_bytes: {max_shard_bytes} is not positive")
    config: dict[str, Any] = {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **name_or_shape,
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").unlink(missing_ok=True)
    special_ids = _write_tokenizer(directory, config)
    config |= special_ids
    tensors = list(tensor_shapes(config))
    scales = scale_names(config, input_scales=input_scales, kv_scales=kv_scales)
    _write_weights(directory, tensors, list(scales), seed, max_shard_bytes)
    _write_json(directory / "generation_config.json", {"do_sample": False, **special_ids})
    _write_json(directory / "config.json", dict(sorted(config.items())))
    return directory


def tensor_shapes(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields each tensor's name and shape in the checkpoint; linear weights are [out, in]."""
    hidden_size, ffn = config["hidden_size"], config["intermediate_size"]
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or hidden_size // num_heads
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden_size)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, num in (("q", num_heads), ("k", num_kv_heads), ("v", num_kv_heads)):
            yield f"{prefix}self_attn.{name}_proj.weight", (num * head_dim, hidden_size)
            if config["model_type"] == "qwen2":
                yield f"{prefix}self_attn.{name}_proj.bias", (num * head_dim,)
        yield f"{prefix}self_attn.o_proj.weight", (hidden_size, num_heads * head_dim)
        if config["model_type"] == "qwen3":
            yield f"{prefix}self_attn.q_norm.weight", (head_dim,)
            yield f"{prefix}self_attn.k_norm.weight", (head_dim,)
        yield f"{prefix}mlp.gate_proj.weight", (ffn, hidden_size)
        yield f"{prefix}mlp.up_proj.weight", (ffn, hidden_size)
        yield f"{prefix}mlp.down_proj.weight", (hidden_size, ffn)
        yield f"{prefix}input_layernorm.weight", (hidden_size,)
        yield f"{prefix}post_attention_layernorm.weight", (hidden_size,)
    yield "model.norm.weight", (hidden_size,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden_size)


def scale_names(
    config: Mapping[str, Any], *, input_scales: bool = True, kv_scales: bool = True
) -> Iterator[str]:
    """Yields the names of the scales that calibration adds: ModelOpt's, one float each."""
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        if input_scales:
            for name in "qkvo":
                yield f"{prefix}self_attn.{name}_proj.input_scale"
            for name in ("gate", "up", "down"):
                yield f"{prefix}mlp.{name}_proj.input_scale"
        if kv_scales:
            yield f"{prefix}self_attn.k_proj.k_scale"
            yield f"{prefix}self_attn.v_proj.v_scale"


def _write_weights(
    directory: Path,
    tensors: list[tuple[str, tuple[int, ...]]],
    scales: list[str],
    seed: int,
    max_shard_bytes: int,
) -> None:
    for stale in directory.glob("model*.safetensors*"):
        stale.unlink()
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in tensors:
        num_bytes = 2 * int(np.prod(shape))
        if shards[-1] and size + num_bytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += num_bytes
    shards[-1] |= dict.fromkeys(scales, (1,))  # a few KB, wherever the last tensor is

    normal = statistics.NormalDist()
    quantiles = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32)
    weight_map: dict[str, str] = {}
    for i, shard in enumerate(shards, start=1):
        suffix = "" if len(shards) == 1 else f"-{i:05d}-of-{len(shards):05d}"
        path = directory / f"model{suffix}.safetensors"
        with path.open("wb") as file:
            file.write(_safetensors_header(shard))
            for name, shape in shard.items():
                if _is_scale(name):
                    file.write(np.float32(_synthetic_scale(name, seed)).tobytes())
                else:
                    _write_tensor(file, name, shape, quantiles, seed)
        weight_map |= dict.fromkeys(shard, path.name)
    if len(shards) > 1:
        total_size = sum(2 * int(np.prod(shape)) for _, shape in tensors) + 4 * len(scales)
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _safetensors_header(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """The length prefix and the JSON header, padded so that the data begins 8-byte aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, shape in tensors.items():
        dtype, item_bytes = ("F32", 4) if _is_scale(name) else ("BF16", 2)
        end = begin + item_bytes * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def _write_tensor(
    file: BinaryIO,
    name: str,
    shape: tuple[int, ...],
    quantiles: npt.NDArray[np.float32],
    seed: int,
) -> None:
    """Streams one tensor: 16 random bits choose one of 65536 normal quantiles, already bfloat16.

    A table look-up is several times faster than drawing normal floats and rounding them, and with
    8 bits of significand in the result nothing is lost.
    """
    if "norm" in name:
        table = _to_bfloat16(1 + np.float32(0.1) * quantiles)
    elif name.endswith(".bias"):
        table = _to_bfloat16(np.float32(0.1) * quantiles)
    else:
        gain = 2.0 if name in ("model.embed_tokens.weight", "lm_head.weight") else 1.0
        table = _to_bfloat16(np.float32(gain / shape[-1] ** 0.5) * quantiles)
    stream = np.random.Generator(np.random.SFC64([seed, *name.encode()]))
    remaining = int(np.prod(shape))
    while remaining:
        count = min(remaining, BLOCK_SIZE)
        file.write(table[stream.integers(0, 65536, count, np.uint16)].tobytes())
        remaining -= count


def _is_scale(name: str) -> bool:
    return name.endswith("_scale")


def _synthetic_scale(name: str, seed: int) -> float:
    """The scale with which codes up to 127 cover the largest activation of weights as drawn here.

    int8 uses all of those codes; fp8 uses a part of its range, which costs a floating format
    nothing. Inputs of unit variance reach about 5 over a calibration set; averages of values reach
    less, products of gate and up more.
    """
    largest = {"o_proj": 4.0, "down_proj": 8.0}.get(name.split(".")[-2], 5.0)
    stream = np.random.Generator(np.random.SFC64([seed, *name.encode()]))
    return largest * float(stream.uniform(0.9, 1.1)) / 127


def _to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to nearest even, and returns the bit patterns as little-endian uint16."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _write_tokenizer(directory: Path, config: Mapping[str, Any]) -> dict[str, int]:
    """Writes the tokenizer with exactly `vocab_size` tokens; returns its bos and eos ids.

    The demo's tokens keep their ids as far as they fit, fillers follow, and the special tokens take
    the last ids. A filler is a word of letters after a space that no merge leads to: it is decoded
    but never produced by encoding a text.
    """
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    special = tokenizer["added_tokens"]
    num_plain = config["vocab_size"] - len(special)
    if num_plain < NUM_BYTE_TOKENS:
        raise ValueError(
            f"vocab_size: {config['vocab_size']} leaves no room for {NUM_BYTE_TOKENS} bytes and "
            f"{len(special)} special tokens"
        )
    model = tokenizer["model"]
    demo_tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens = dict.fromkeys(demo_tokens[:num_plain])
    model["merges"] = model["merges"][: len(tokens) - NUM_BYTE_TOKENS]
    number = 0
    while len(tokens) < num_plain:
        tokens["Ġ" + _word(number)] = None
        number += 1
    model["vocab"] = {token: token_id for token_id, token in enumerate(tokens)}

    for token_id, token in enumerate(special, start=num_plain):
        token["id"] = token_id
    bos_id, eos_id = num_plain, num_plain + 1
    adds_bos = config["model_type"] in ("llama", "mistral")
    if adds_bos:
        for entry in tokenizer["post_processor"]["special_tokens"].values():
            entry["ids"] = [bos_id]
    else:
        tokenizer["post_processor"] = None
    tokenizer_config = json.loads((DEMO / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer_config["add_bos_token"] = adds_bos
    tokenizer_config["model_max_length"] = config["max_position_embeddings"]
    _write_json(directory / "tokenizer.json", tokenizer)
    _write_json(directory / "tokenizer_config.json", tokenizer_config)
    return {"bos_token_id": bos_id, "eos_token_id": eos_id}


def _word(number: int) -> str:
    """A distinct pronounceable word per number: syllables as digits of base 75."""
    syllables = [consonant + vowel for consonant in "bdfghjklmnprstv" for vowel in "aeiou"]
    word = ""
    while number or not word:
        number, digit = divmod(number, len(syllables))
        word += syllables[digit]
    return word


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random checkpoint of a real shape")
    parser.add_argument("shape", choices=SHAPES, help="which model's shape")
    parser.add_argument("directory", type=Path, help="where the checkpoint goes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_shard_bytes", type=int, default=DEFAULT_MAX_SHARD_BYTES)
    parser.add_argument(
        "--input_scales", action="store_true", help="scales of activations, for int8_sq and fp8"
    )
    parser.add_argument("--kv_scales", action="store_true", help="scales of keys and values")
    args = parser.parse_args()
    try:
        write_random_checkpoint(
            args.shape,
            args.directory,
            args.seed,
            args.max_shard_bytes,
            input_scales=args.input_scales,
            kv_scales=args.kv_scales,
        )
    except ValueError as error:
        parser.error(str(error))
    size = sum(path.stat().st_size for path in args.directory.glob("*.safetensors"))
    print(f"{args.directory}: {args.shape}, {size / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
