# SPDX-License-Identifier: Apache-2.0
"""Writes what ModelOpt quantised, with what its own export leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginery.quantization.calibration_job import CalibrationJob

INT8_MAX = 127.0


def export(model: Any, job: CalibrationJob, output: Path) -> None:
    """Writes a model that ModelOpt quantised, within `torch.inference_mode`.

    Args:
        model: it.
        job: what it was made by.
        output: an existing folder; gets weights, `config.json` and `hf_quant_config.json`.
    """
    from modelopt.torch.export import export_hf_checkpoint

    kv_scales = _take_int8_scales(model) if job.kv_cache_dtype == "int8" else {}
    save = model.save_pretrained

    def save_in_stored_dtypes(*args: Any, state_dict: dict[str, Any], **options: Any) -> Any:
        return save(*args, state_dict=_in_stored_dtypes(state_dict, job.stored_dtypes), **options)

    model.save_pretrained = save_in_stored_dtypes
    export_hf_checkpoint(model, export_dir=output, extra_state_dict=kv_scales)
    _write_configs(job, output)


def _take_int8_scales(model: Any) -> dict[str, Any]:
    """Takes the quantizers of the KV cache off; ModelOpt exports their scales for floats alone.

    Returns:
        float32 scalars by name: amax / 127.
    """
    scales = {}
    for name, module in model.named_modules():
        for which in "kv":
            quantizer = getattr(module, f"{which}_bmm_quantizer", None)
            if quantizer is not None:
                amax = quantizer.amax.detach().float().reshape(()).cpu()
                scales[f"{name}.{which}_proj.{which}_scale"] = amax / INT8_MAX
                quantizer.reset_amax()
                quantizer.disable()
    return scales


def _in_stored_dtypes(tensors: dict[str, Any], stored: Mapping[str, str]) -> dict[str, Any]:
    """Rounds the tensors that were not quantised to the dtype that they had."""
    import torch

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    computed = tuple(dtypes.values())
    return {
        name: tensor.to(dtypes[stored[name]])
        if name in stored and tensor.dtype in computed
        else tensor
        for name, tensor in tensors.items()
    }


def _write_configs(job: CalibrationJob, output: Path) -> None:
    """Writes `config.json` as the checkpoint's own, with what ModelOpt says of the quantisation."""
    exported = _read(output / "config.json")
    config = _read(job.model / "config.json")
    quantization = exported.get("quantization_config")
    described_in = output / "hf_quant_config.json"
    if job.kv_cache_dtype == "int8":
        described = _read(described_in) if described_in.exists() else {"quantization": {}}
        described["quantization"].setdefault("quant_algo", None)
        described["quantization"]["kv_cache_quant_algo"] = "INT8"
        _write(described_in, described)
        if quantization is not None:
            quantization["kv_cache_quant_algo"] = "INT8"
            quantization["kv_cache_scheme"] = {"dynamic": False, "num_bits": 8, "type": "int"}
    # Where only the KV cache has scales, the weights are those of any unquantised checkpoint.
    if quantization is not None and job.qformat != "none":
        config["quantization_config"] = quantization
    _write(output / "config.json", config)


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
