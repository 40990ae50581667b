# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.errors import CheckpointError
from tests.support.checkpoints import encode_tensor, write_safetensors, write_tiny_checkpoint
from tests.support.engines import plan_tiny

INDEX = "model.safetensors.index.json"


def edit_index(directory: Path, **changes: str | None) -> None:
    path = directory / INDEX
    index = json.loads(path.read_text())
    for name, file in changes.items():
        if file is None:
            del index["weight_map"][name]
        else:
            index["weight_map"][name] = file
    path.write_text(json.dumps(index))


def messages(directory: Path) -> list[str]:
    with pytest.raises(CheckpointError) as error:
        plan_tiny(directory, directory.with_name("engine"))
    return [str(problem) for problem in error.value.problems]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_shards_hold_what_one_file_holds(tmp_path: Path, dtype: str) -> None:
    one = write_tiny_checkpoint(tmp_path / "one", "qwen2", dtype=dtype)
    many = write_tiny_checkpoint(tmp_path / "many", "qwen2", dtype=dtype, num_shards=3)
    with Checkpoint(one) as a, Checkpoint(many) as b:
        assert len(b.files) == 3
        assert a.tensors.keys() == b.tensors.keys()
        for name in a.tensors:
            assert np.array_equal(a.read_float32(name), b.read_float32(name))


def test_slices_are_converted_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((19, 37)).astype(np.float32)
    for dtype, code in (("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16")):
        directory = tmp_path / dtype
        directory.mkdir()
        stored = {"w": encode_tensor(values, dtype)}
        write_safetensors(directory / "model.safetensors", stored, {"w": code})
        expected = torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()
        with Checkpoint(directory) as checkpoint:
            part = checkpoint.read_float32("w", slice(3, 11), slice(5, 36))
            assert np.array_equal(part, expected[3:11, 5:36])


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama", num_shards=3)
    (directory / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: file: cannot be read" in messages(directory)[0]


def test_an_index_that_lies_about_a_file(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama", num_shards=2)
    edit_index(directory, **{"model.norm.weight": "model-00001-of-00002.safetensors"})
    (message,) = messages(directory)
    assert message == (
        "model.norm.weight: is in model-00002-of-00002.safetensors; "
        "the index says model-00001-of-00002.safetensors"
    )


def test_an_index_with_a_tensor_too_many_and_one_too_few(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama", num_shards=2)
    edit_index(
        directory, **{"model.norm.weight": None, "ghost": "model-00001-of-00002.safetensors"}
    )
    found = messages(directory)
    assert any("model.norm.weight: is in" in m and "the index says nowhere" in m for m in found)
    assert f"ghost: is in {INDEX} but in none of the files" in found


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", ""])
def test_an_index_that_leads_out_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama", num_shards=2)
    edit_index(directory, **{"model.norm.weight": name})
    assert messages(directory) == [
        f"weight_map.model.norm.weight: {name!r} is not the name of a file"
    ]


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    (message,) = messages(directory)
    assert "unpickling runs code" in message and "safe_serialization=True" in message


def test_no_weights_at_all(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama")
    (directory / "model.safetensors").unlink()
    assert messages(directory) == [f"weights: neither model.safetensors nor {INDEX} is there"]


def rewrite(directory: Path, drop: set[str], add: dict[str, tuple[int, ...]], code: str) -> None:
    with Checkpoint(directory) as checkpoint:
        tensors = {
            name: np.array(checkpoint.read(name)) for name in checkpoint.tensors if name not in drop
        }
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in add.items()}
    write_safetensors(
        directory / "model.safetensors",
        tensors,
        dict.fromkeys(tensors, "F32") | dict.fromkeys(add, code),
    )


def test_missing_unexpected_and_misshapen_tensors_are_all_told(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama")
    prefix = "model.layers.1.mlp."
    rewrite(
        directory,
        drop={f"{prefix}up_proj.weight", f"{prefix}gate_proj.weight", "model.norm.weight"},
        add={
            f"{prefix}gate_proj.weight": (256, 127),
            "model.layers.0.self_attn.q_norm.weight": (32,),
            "model.layers.0.self_attn.rotary_emb.inv_freq": (16,),  # follows from the config
        },
        code="F32",
    )
    assert messages(directory) == [
        f"{prefix}gate_proj.weight: has shape [256, 127]; config.json makes it [256, 128]",
        f"{prefix}up_proj.weight: is missing; [256, 128] is expected",
        "model.norm.weight: is missing; [128] is expected",
        "model.layers.0.self_attn.q_norm.weight: is unexpected in a LlamaForCausalLM",
    ]


def test_a_dtype_that_cannot_be_imported(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama")
    rewrite(directory, drop={"model.norm.weight"}, add={"model.norm.weight": (128,)}, code="I32")
    assert messages(directory) == [
        "model.norm.weight: has dtype I32; F32, F16, BF16 can be imported"
    ]


def test_a_tied_output_projection_may_be_saved_but_must_be_the_embedding(tmp_path: Path) -> None:
    directory = write_tiny_checkpoint(tmp_path, "llama")  # not tied: its own lm_head
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    assert "lm_head.weight: differs from model.embed_tokens.weight" in messages(directory)[0]
    with Checkpoint(directory) as checkpoint:
        tensors = {name: np.array(checkpoint.read(name)) for name in checkpoint.tensors}
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    write_safetensors(directory / "model.safetensors", tensors, dict.fromkeys(tensors, "F32"))
    plan_tiny(directory)
