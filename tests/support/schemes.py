# SPDX-License-Identifier: Apache-2.0
"""Engines of the tiny checkpoints in every scheme of the cpu target."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from enginery import quantization
from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest

from .checkpoints import write_tiny_checkpoint
from .scales import add_scales

# As options of a build.
SCHEMES: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8_wo": {"dtype": "bfloat16", "qformat": "int8_wo"},
    "int8_dynamic": {"dtype": "bfloat16", "qformat": "int8_dynamic"},
    "w4a8_dynamic": {"dtype": "bfloat16", "qformat": "w4a8_dynamic"},
    "int8_sq": {"dtype": "bfloat16", "qformat": "int8_sq"},
    "int4_wo": {"dtype": "bfloat16", "qformat": "int4_wo"},
    "fp8": {"dtype": "bfloat16", "qformat": "fp8"},
    "int8_kv": {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
    "fp8_kv": {"dtype": "bfloat16", "kv_cache_dtype": "fp8"},
}


def build_engine(model: Path, output: Path, scheme: str = "float32", **options: Any) -> Path:
    """Builds the checkpoint `model` into `output`, with options of `BuildRequest`.

    Where activations or the KV cache take scales, a copy of the checkpoint gets them.
    """
    given = {"qformat": "none", **SCHEMES[scheme], **options}
    request = BuildRequest(model=model, output=output, **given)
    takes_scales = quantization.SCHEMES[request.qformat].has_input_scales
    if takes_scales or request.kv_cache_dtype in quantization.CODE_KV_DTYPES:
        scaled = output.with_name(f"{output.name}-checkpoint")
        shutil.copytree(model, scaled)
        add_scales(scaled, request.qformat, request.kv_cache_dtype)
        request = dataclasses.replace(request, model=scaled)
    build(plan_build(request))
    return output


def build_tiny_engine(
    folder: Path, family: str = "llama", scheme: str = "float32", **options: Any
) -> Path:
    """Writes a tiny checkpoint and builds it into `folder`/engine.

    Args:
        folder: gets `checkpoint` and `engine`.
        family: of the checkpoint.
        scheme: a key of `SCHEMES`.
        options: of `BuildRequest`.
    """
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", family)
    return build_engine(checkpoint, folder / "engine", scheme, **options)
