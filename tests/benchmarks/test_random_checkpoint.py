# SPDX-License-Identifier: Apache-2.0
"""The random checkpoints of benchmarks/random_checkpoint.py, through its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "random_checkpoint.py"
TINY_SHAPES = ["tiny-llama", "tiny-llama3", "tiny-mistral", "tiny-qwen2", "tiny-qwen3"]


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shape", TINY_SHAPES)
def test_transformers_loads_every_tensor(shape: str, tmp_path: Path) -> None:
    assert run_script(shape, tmp_path, "--max_shard_bytes", "300000").returncode == 0
    assert (tmp_path / "model.safetensors.index.json").exists()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    assert not any(report.values()), report
    token_ids = torch.arange(model.config.vocab_size)[None]
    with torch.inference_mode():
        logits = model(token_ids).logits
    # Logits have a standard deviation near 2 by construction, whatever the depth.
    assert 1.0 < logits.std().item() < 4.0
    assert logits.argmax(dim=-1).unique().numel() > 20


@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-qwen3"])
def test_tokenizer_fills_the_vocabulary_and_round_trips(shape: str, tmp_path: Path) -> None:
    assert run_script(shape, tmp_path).returncode == 0
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokens = [tokenizer.id_to_token(i) for i in range(config["vocab_size"])]
    assert all(tokens)
    assert len(set(tokens)) == tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokens[config["bos_token_id"]] == "<|begin_of_text|>"
    assert tokens[config["eos_token_id"]] == "<|end_of_text|>"
    text = "And it came to pass, naïve 日本 \N{WAVING HAND SIGN}\x00\t\n  two"
    encoded = tokenizer.encode(text).ids
    assert tokenizer.decode(encoded) == text
    assert (encoded[0] == config["bos_token_id"]) == (config["model_type"] == "llama")


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert run_script("tiny-qwen2", tmp_path / name, "--seed", seed).returncode == 0
    a, b, c = (sorted((tmp_path / name).iterdir()) for name in "abc")
    assert [path.read_bytes() for path in a] == [path.read_bytes() for path in b]
    differing = [x.name for x, y in zip(a, c, strict=True) if x.read_bytes() != y.read_bytes()]
    assert differing == ["model.safetensors"]


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    unknown = run_script("tiny-gpt", tmp_path)
    assert unknown.returncode == 2
    assert "tiny-llama" in unknown.stderr
    empty_shard = run_script("tiny-llama", tmp_path, "--max_shard_bytes", "0")
    assert empty_shard.returncode == 2
    assert "max_shard_bytes" in empty_shard.stderr
    assert not (tmp_path / "config.json").exists()


def test_scales_are_added_and_change_nothing_else(tmp_path: Path) -> None:
    for name, flags in (("plain", ()), ("scaled", ("--input_scales", "--kv_scales"))):
        arguments = ("tiny-qwen3", tmp_path / name, "--max_shard_bytes", "300000", *flags)
        assert run_script(*arguments).returncode == 0
    plain, scaled = (_load_all(tmp_path / name) for name in ("plain", "scaled"))
    added = scaled.keys() - plain.keys()
    assert len(added) == 2 * (7 + 2)  # layers, linears, k and v
    assert all(torch.equal(scaled[name], tensor) for name, tensor in plain.items())
    for name in added:
        assert scaled[name].dtype == torch.float32
        assert scaled[name].shape == (1,)
        assert 3 / 127 < scaled[name].item() < 10 / 127
    assert "model.layers.1.self_attn.v_proj.v_scale" in added
    assert len({scaled[name].item() for name in added}) == len(added)
    index = json.loads((tmp_path / "scaled" / "model.safetensors.index.json").read_text())
    sizes = [tensor.numel() * tensor.element_size() for tensor in scaled.values()]
    assert index["metadata"]["total_size"] == sum(sizes)


def _load_all(directory: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in directory.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors
