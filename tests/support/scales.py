# SPDX-License-Identifier: Apache-2.0
"""Calibrated scales for tiny checkpoints, as calibration would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .checkpoints import write_safetensors

LARGEST = {"fp8": 448.0, "int8_sq": 127.0}
# Magnitudes that activations of the tiny checkpoints reach, by the module that reads them. Those
# of layers that are stacked differ, so that taking one of them for the largest shows.
INPUT_AMAX = {
    "q_proj": 5.5, "k_proj": 6.0, "v_proj": 5.0, "o_proj": 4.0,
    "gate_proj": 5.5, "up_proj": 6.0, "down_proj": 10.0,
}  # fmt: skip
KV_AMAX = {"k": 8.0, "v": 5.0}
CODES: dict[str, Any] = {
    "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F8_E4M3": np.uint8, "I8": np.int8,
    "U8": np.uint8, "I32": np.int32, "I64": np.int64,
}  # fmt: skip


def add_scales(directory: Path, qformat: str = "none", kv_cache_dtype: str = "auto") -> Path:
    """Adds the scales that a build takes and a checkpoint of one file lacks, in float32.

    Args:
        directory: of the checkpoint; its `model.safetensors` is written again.
        qformat: "fp8" or "int8_sq" adds `input_scale` of every linear layer but the output
            projection; anything else none.
        kv_cache_dtype: "int8" or "fp8" adds `k_scale` and `v_scale` of every layer, the first of
            shape [], the second of shape [1].

    Returns:
        `directory`.
    """
    tensors, dtypes = read_tensors(directory / "model.safetensors")
    added: dict[str, npt.NDArray[Any]] = {}
    for name in tensors:
        module = name.rsplit(".", 2)[-2]
        if qformat in LARGEST and name.endswith(".weight") and module in INPUT_AMAX:
            scale = np.float32(INPUT_AMAX[module] / LARGEST[qformat])
            added[name.removesuffix("weight") + "input_scale"] = np.array(scale)
        if kv_cache_dtype in ("fp8", "int8") and name.endswith(".k_proj.weight"):
            largest = 448.0 if kv_cache_dtype == "fp8" else 127.0
            prefix = name.removesuffix("k_proj.weight")
            added[f"{prefix}k_proj.k_scale"] = np.array(np.float32(KV_AMAX["k"] / largest))
            added[f"{prefix}v_proj.v_scale"] = np.array([KV_AMAX["v"] / largest], np.float32)
    added = {name: scale for name, scale in added.items() if name not in tensors}
    dtypes |= dict.fromkeys(added, "F32")
    write_safetensors(directory / "model.safetensors", tensors | added, dtypes)
    return directory


def change_tensors(directory: Path, **changed: tuple[npt.NDArray[Any], str] | None) -> None:
    """Replaces or adds tensors of a checkpoint of one file, or takes out those that are None.

    Args:
        directory: of the checkpoint.
        changed: values and dtype in safetensors' words, by name.
    """
    tensors, dtypes = read_tensors(directory / "model.safetensors")
    for name, entry in changed.items():
        if entry is None:
            del tensors[name]
        else:
            tensors[name], dtypes[name] = entry
    dtypes = {name: dtypes[name] for name in tensors}
    write_safetensors(directory / "model.safetensors", tensors, dtypes)


def read_tensors(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Returns the tensors of a safetensors file (bfloat16 as uint16) and their dtypes."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, last = (begin + offset for offset in entry["data_offsets"])
        items = np.frombuffer(data[first:last], CODES[entry["dtype"]])
        tensors[name] = items.reshape(entry["shape"])
    return tensors, {name: entry["dtype"] for name, entry in header.items()}
