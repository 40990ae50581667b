# SPDX-License-Identifier: Apache-2.0
"""Writes a random checkpoint as a bfloat16 GGUF file; runs in llama.cpp's environment.

    python -m benchmarks.peers.converters.gguf_file CHECKPOINT OUTPUT.gguf

Matrices keep their bits; vectors (norms, biases) become float32, which llama.cpp asks for. Its own
`llama-quantize` makes the quantised files from the result.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.converters.checkpoint import Checkpoint, to_float32

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2"}

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """The GGUF name of a tensor: of "model.layers.3.mlp.up_proj.weight" "blk.3.ffn_up.weight"."""
    stem, _, suffix = name.rpartition(".")
    if not stem.startswith("model.layers."):
        return f"{NAMES[stem]}.{suffix}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{suffix}"


def interleave_rope(matrix: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Reorders a head's rows from halves (Hugging Face) to neighbours (llama.cpp's llama).

    Args:
        matrix: [num_heads * head_dim, ...].
        num_heads: of this projection.
    """
    halves = matrix.reshape(num_heads, 2, -1, *matrix.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(matrix.shape)


def write_gguf(checkpoint: Checkpoint, output: Path) -> None:
    """Writes `output` whole, or leaves nothing under that name."""
    gguf: Any = importlib.import_module("gguf")
    config = checkpoint.config
    part = output.with_suffix(".part")
    writer = gguf.GGUFWriter(part, ARCHITECTURES[config["model_type"]])
    _add_config(writer, config)
    _add_tokenizer(writer, checkpoint.tokenizer, config)
    bfloat16 = gguf.GGMLQuantizationType.BF16
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, bits in checkpoint.tensors():
        module = name.split(".")[-2]
        if config["model_type"] == "llama" and module in heads:
            bits = interleave_rope(bits, heads[module])
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), to_float32(bits))
        else:
            writer.add_tensor(gguf_name(name), bits.view(np.uint8), raw_dtype=bfloat16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(output)


def _add_config(writer: Any, config: dict[str, Any]) -> None:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """The tokens as they are: text is never tokenised here, but llama.cpp wants a vocabulary."""
    normal, control = 1, 3
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    special = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    by_id = {token_id: token for token, token_id in (vocab | special).items()}
    size = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id[token_id] for token_id in range(size)])
    writer.add_token_types([control if by_id[i] in special else normal for i in range(size)])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


if __name__ == "__main__":
    write_gguf(Checkpoint(Path(sys.argv[1])), Path(sys.argv[2]))
