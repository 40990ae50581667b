# SPDX-License-Identifier: Apache-2.0
"""Turns a tiny checkpoint into what nvidia-modelopt would export of it, smoothed and in codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.quantization import (
    dequantize_int8,
    int4_codes,
    int4_scale,
    quantize_int8,
    widen,
)

from .checkpoints import write_safetensors
from .scales import INPUT_AMAX, read_tensors

# Of activations, by algorithm.
LARGEST_CODES = {"W8A8_SQ_PER_CHANNEL": 127, "W4A8_AWQ": 448}
# Modules of a layer that read one value, and so share the factors by which it is smoothed.
STACKS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def store_smoothed(directory: Path, algorithm: str, seed: int = 0) -> dict[str, Any]:
    """Rewrites a checkpoint of one file as codes with unfolded smoothing factors.

    Args:
        directory: of the checkpoint, in float32 or bfloat16; its weights and config.json are
            written again.
        algorithm: "W8A8_SQ_PER_CHANNEL" (INT8 per row, one scale per activation), "W4A16_AWQ"
            (INT4 in blocks of 128) or "W4A8_AWQ" (with one scale per FP8 activation, and one for
            the FP8 that weights become).
        seed: of the factors, which are between 2/3 and 3/2.

    Returns:
        By name the float32 weights that codes and factors together stand for.
    """
    tensors, dtypes = read_tensors(directory / "model.safetensors")
    rng = np.random.default_rng(seed)
    meant: dict[str, Any] = {}
    prefixes = sorted({name.rsplit(".", 2)[0] for name in tensors if name.endswith("_proj.weight")})
    for prefix in prefixes:
        for stack in STACKS:
            names = [f"{prefix}.{module}" for module in stack]
            if f"{names[0]}.weight" not in tensors:
                continue
            depth = tensors[f"{names[0]}.weight"].shape[1]
            factor = (1.5 ** rng.uniform(-1, 1, depth)).astype(np.float32)
            weights = [widen(tensors[f"{name}.weight"]) / factor for name in names]
            largest = max(np.abs(weight).max() for weight in weights)
            for module, name, weight in zip(stack, names, weights, strict=True):
                added = _int8(weight) if algorithm.startswith("W8A8") else _int4(weight)
                meant[f"{name}.weight"] = added.pop("meant") * factor
                added["pre_quant_scale"] = factor
                if algorithm in LARGEST_CODES:
                    # Wide enough for what the factors make of the activations.
                    amax = 1.5 * INPUT_AMAX[module]
                    added["input_scale"] = np.array(np.float32(amax / LARGEST_CODES[algorithm]))
                if algorithm == "W4A8_AWQ":
                    added["weight_scale_2"] = np.array(largest / np.float32(448))
                for suffix, values in added.items():
                    tensors[f"{name}.{suffix}"] = values
                    dtypes[f"{name}.{suffix}"] = _dtype(values)
    write_safetensors(directory / "model.safetensors", tensors, dtypes)
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": algorithm}
    (directory / "config.json").write_text(json.dumps(config))
    return meant


def _int8(weight: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    quantised = quantize_int8(weight, "weight")
    return {
        "weight": quantised.q,
        "weight_scale": quantised.scale,
        "meant": dequantize_int8(quantised),
    }


def _int4(weight: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    scale = int4_scale(weight, "weight")
    codes = int4_codes(weight, scale)
    low, high = codes[0::2].view(np.uint8) & 15, codes[1::2].view(np.uint8) & 15
    meant = codes.astype(np.float32) * np.repeat(scale, 128, axis=1)
    return {"weight": low | (high << 4), "weight_scale": scale, "meant": meant}


def _dtype(values: npt.NDArray[Any]) -> str:
    return {"int8": "I8", "uint8": "U8", "float32": "F32"}[values.dtype.name]
