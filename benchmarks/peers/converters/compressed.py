# SPDX-License-Identifier: Apache-2.0
"""Writes a random checkpoint in the compressed-tensors form that vLLM reads.

    python -m benchmarks.peers.converters.compressed CHECKPOINT OUTPUT int8|int4

int8: INT8 weights per output channel and activations INT8 per token, found at run time. int4: INT4
weights in groups of 128, packed eight to an int32, and activations as they are. The output
projection and the embedding stay bfloat16, as usual there.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.converters.checkpoint import Checkpoint, to_float32

GROUP_SIZE = 128
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def quantize_int8(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric per row: codes [out, in] and scales [out, 1]."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def pack_int4(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Symmetric per row and group: eight codes + 8 in an int32, low first, and scales.

    Args:
        weight: [out, in], `in` a multiple of 128.

    Returns:
        Codes [out, in / 8] and scales [out, in / 128].
    """
    groups = weight.reshape(weight.shape[0], -1, GROUP_SIZE)
    scale = np.abs(groups).max(axis=2, keepdims=True) / np.float32(7)
    codes = np.clip(np.rint(groups / scale), -8, 7).astype(np.int64) + 8
    nibbles = codes.reshape(weight.shape[0], -1, 8).astype(np.uint32)
    packed = np.bitwise_or.reduce(nibbles << (4 * np.arange(8, dtype=np.uint32)), axis=2)
    return packed.astype(np.uint32).view(np.int32), scale[:, :, 0].astype(np.float32)


def quantization_config(precision: str) -> dict[str, Any]:
    """The entry of config.json that tells vLLM of the codes."""
    common = {"type": "int", "symmetric": True, "dynamic": False, "observer": "minmax"}
    if precision == "int8":
        weights = common | {"num_bits": 8, "strategy": "channel", "group_size": None}
        activations: dict[str, Any] | None = common | {
            "num_bits": 8,
            "strategy": "token",
            "dynamic": True,
            "observer": None,
        }
        form = "int-quantized"
    else:
        weights = common | {"num_bits": 4, "strategy": "group", "group_size": GROUP_SIZE}
        activations, form = None, "pack-quantized"
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }


def write_compressed(checkpoint: Checkpoint, output: Path, precision: str) -> None:
    """Writes the folder; config.json is written last."""
    torch: Any = importlib.import_module("torch")
    save_file = importlib.import_module("safetensors.torch").save_file
    output.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, bits in checkpoint.tensors():
        if not name.endswith("_proj.weight"):
            tensors[name] = torch.from_numpy(np.array(bits).view(np.int16)).view(torch.bfloat16)
            continue
        weight = to_float32(bits)
        if precision == "int8":
            int8, scale = quantize_int8(weight)
            tensors[name] = torch.from_numpy(int8)
        else:
            int4, scale = pack_int4(weight)
            tensors[f"{name}_packed"] = torch.from_numpy(int4)
            tensors[f"{name}_shape"] = torch.tensor(weight.shape)
        tensors[f"{name}_scale"] = torch.from_numpy(scale).to(torch.bfloat16)
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    for file in TOKENIZER_FILES:
        shutil.copyfile(checkpoint.directory / file, output / file)
    config = checkpoint.config | {"quantization_config": quantization_config(precision)}
    (output / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    write_compressed(Checkpoint(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
