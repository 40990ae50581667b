# SPDX-License-Identifier: Apache-2.0
"""Turns tiny checkpoints into those that quantising libraries write.

Every linear layer but the output projection is quantised. Files are those of the library: names,
dtypes, layouts and `quantization_config`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from enginery.quantization import bfloat16_to_float32

from . import quantized_weights as layouts
from .checkpoints import write_safetensors
from .quantized_weights import FloatArray, Quantized
from .raw_tensors import Stored
from .scales import INPUT_AMAX, KV_AMAX, read_tensors

GROUP_SIZE = 32
BLOCK = (48, 40)  # divides no weight, so that the last blocks are smaller


class Kind(NamedTuple):
    """One way to store a checkpoint.

    Attributes:
        quantize: a weight's tensors.
        config: its `quantization_config`.
        input_scale: name and largest code of static activations' scale; None: none is stored.
    """

    quantize: Callable[[FloatArray], Quantized]
    config: dict[str, Any]
    input_scale: tuple[str, float] | None = None


def quantize_checkpoint(
    directory: Path, kind: str, *, twin: Path | None = None, kv_cache: str | None = None
) -> dict[str, FloatArray]:
    """Quantises the weights of a checkpoint of one file in place.

    Args:
        directory: of the checkpoint.
        kind: a name of `KINDS`.
        twin: gets the same checkpoint with what the codes stand for in float32, not quantised.
        kv_cache: of compressed-tensors alone: "fp8" or "int8" stores scales for the KV cache.

    Returns:
        What the codes stand for, float32, by the name of the weight.
    """
    if twin is not None:
        shutil.copytree(directory, twin)
    path = directory / "model.safetensors"
    tensors, dtypes = read_tensors(path)
    quantized: dict[str, Stored] = {}
    values: dict[str, FloatArray] = {}
    way = KINDS[kind]
    for name, array in tensors.items():
        module = name.removesuffix(".weight")
        projection = module.rsplit(".", 1)[-1]
        if projection not in INPUT_AMAX or module == name:
            quantized.setdefault(name, (array, dtypes[name]))
            continue
        result = way.quantize(_widened(array, dtypes[name]))
        values[name] = result.values
        for part, stored in result.tensors.items():
            is_bias = f"{module}.{part}" in tensors and part == "bias"
            if not is_bias:  # one that the model has stays
                quantized[f"{module}.{part}"] = stored
        if way.input_scale is not None:
            part, largest = way.input_scale
            scale = np.array([INPUT_AMAX[projection] / largest], np.float32)
            quantized[f"{module}.{part}"] = (scale, "F32")
    config = dict(way.config)
    if kv_cache is not None:
        config["kv_cache_scheme"] = _args(8, "float" if kv_cache == "fp8" else "int")
        quantized |= _kv_scales(list(tensors), 448.0 if kv_cache == "fp8" else 127.0)
    _write(path, quantized)
    _add_config(directory, config)
    if twin is not None:
        changed = {name: (value, "F32") for name, value in values.items()}
        plain = {name: (array, dtypes[name]) for name, array in tensors.items()}
        _write(twin / "model.safetensors", plain | changed)
    return values


def _widened(array: Any, dtype: str) -> FloatArray:
    is_bfloat16 = dtype == "BF16"
    widened: FloatArray = bfloat16_to_float32(array) if is_bfloat16 else array.astype(np.float32)
    return widened


def _kv_scales(names: list[str], largest: float) -> dict[str, Stored]:
    """Scales that compressed-tensors stores beside the attention's modules."""
    attentions = [n.removesuffix("k_proj.weight") for n in names if n.endswith(".k_proj.weight")]
    return {
        f"{attention}{which}_scale": (np.array([KV_AMAX[which] / largest], np.float32), "F32")
        for attention in attentions
        for which in "kv"
    }


def _write(path: Path, stored: dict[str, Stored]) -> None:
    arrays = {name: array for name, (array, _) in stored.items()}
    write_safetensors(path, arrays, {name: dtype for name, (_, dtype) in stored.items()})


def _add_config(directory: Path, quantization: dict[str, Any]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = quantization
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _args(num_bits: int, kind: str, **given: Any) -> dict[str, Any]:
    """How compressed-tensors describes one operand."""
    args: dict[str, Any] = {
        "actorder": None, "block_structure": None, "dynamic": False, "group_size": None,
        "num_bits": num_bits, "observer": "minmax", "observer_kwargs": {}, "strategy": "tensor",
        "symmetric": True, "type": kind,
    }  # fmt: skip
    return args | given


def awq_config(group_size: int = GROUP_SIZE, *, zero_point: bool = True) -> dict[str, Any]:
    """`quantization_config` as AutoAWQ writes it."""
    return {
        "quant_method": "awq", "bits": 4, "group_size": group_size, "version": "gemm",
        "zero_point": zero_point, "modules_to_not_convert": None,
    }  # fmt: skip


def gptq_config(group_size: int = GROUP_SIZE, **given: Any) -> dict[str, Any]:
    """`quantization_config` as AutoGPTQ writes it."""
    return {
        "quant_method": "gptq", "bits": 4, "group_size": group_size, "desc_act": False,
        "sym": True, "checkpoint_format": "gptq", "damp_percent": 0.01, "static_groups": False,
        "true_sequential": True, "model_name_or_path": None,
    } | given  # fmt: skip


def compressed_config(
    name: str, weights: dict[str, Any], inputs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """`quantization_config` as llm-compressor writes it."""
    group = {
        "targets": ["Linear"], "weights": weights, "input_activations": inputs,
        "output_activations": None,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": name, "config_groups": {"group_0": group},
        "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed",
        "global_compression_ratio": None,
    }  # fmt: skip


def fp8_config(block: tuple[int, int] | None, scheme: str = "dynamic") -> dict[str, Any]:
    """`quantization_config` as transformers writes it for FP8."""
    return {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": scheme,
        "weight_block_size": None if block is None else list(block),
        "modules_to_not_convert": ["lm_head"],
    }  # fmt: skip


GROUPED = {"strategy": "group", "group_size": GROUP_SIZE}
PER_TOKEN = {"dynamic": True, "strategy": "token"}
PER_ROW = {"strategy": "channel"}

KINDS = {
    "awq": Kind(lambda w: layouts.awq(w, GROUP_SIZE), awq_config()),
    "awq_g64": Kind(lambda w: layouts.awq(w, 64), awq_config(64)),
    "awq_g128": Kind(lambda w: layouts.awq(w, 128), awq_config(128)),
    "awq_sym": Kind(
        lambda w: layouts.awq(w, GROUP_SIZE, zero_point=False), awq_config(zero_point=False)
    ),
    "gptq_sym": Kind(lambda w: layouts.gptq(w, GROUP_SIZE), gptq_config()),
    "gptq_sym_g128": Kind(lambda w: layouts.gptq(w, 128), gptq_config(128)),
    "gptq_asym": Kind(
        lambda w: layouts.gptq(w, GROUP_SIZE, sym=False, is_v2=True),
        gptq_config(sym=False, checkpoint_format="gptq_v2"),
    ),
    "gptq_desc_act": Kind(
        lambda w: layouts.gptq(w, GROUP_SIZE, desc_act=True), gptq_config(desc_act=True)
    ),
    "w4a16": Kind(
        lambda w: layouts.pack_quantized(w, GROUP_SIZE),
        compressed_config("pack-quantized", _args(4, "int", **GROUPED)),
    ),
    "w4a16_asym": Kind(
        lambda w: layouts.pack_quantized(w, GROUP_SIZE, symmetric=False),
        compressed_config("pack-quantized", _args(4, "int", symmetric=False, **GROUPED)),
    ),
    "w4a16_actorder": Kind(
        lambda w: layouts.pack_quantized(w, GROUP_SIZE, actorder=True),
        compressed_config("pack-quantized", _args(4, "int", actorder="group", **GROUPED)),
    ),
    "w8a16": Kind(
        lambda w: layouts.pack_quantized(w, -1, num_bits=8),
        compressed_config("pack-quantized", _args(8, "int", **PER_ROW)),
    ),
    "w8a8_dynamic": Kind(
        layouts.int8,
        compressed_config(
            "int-quantized", _args(8, "int", **PER_ROW), _args(8, "int", **PER_TOKEN)
        ),
    ),
    "w8a8_static": Kind(
        layouts.int8,
        compressed_config("int-quantized", _args(8, "int", **PER_ROW), _args(8, "int")),
        ("input_scale", 127.0),
    ),
    "fp8_static": Kind(
        lambda w: layouts.fp8(w, None),
        compressed_config("float-quantized", _args(8, "float"), _args(8, "float")),
        ("input_scale", 448.0),
    ),
    "fp8_dynamic": Kind(
        lambda w: layouts.fp8(w, (1, w.shape[1])),
        compressed_config(
            "float-quantized", _args(8, "float", **PER_ROW), _args(8, "float", **PER_TOKEN)
        ),
    ),
    "block_fp8": Kind(
        lambda w: layouts.fp8(w, BLOCK, scale_name="weight_scale_inv"), fp8_config(BLOCK)
    ),
    "tensor_fp8": Kind(
        lambda w: layouts.fp8(w, None, scale_name="weight_scale_inv"),
        fp8_config(None, "static"),
        ("activation_scale", 448.0),
    ),
}
"""Ways to store a checkpoint, by name."""
