# SPDX-License-Identifier: Apache-2.0
"""Engines of the tiny checkpoints in every scheme of the cpu target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.builder.build import build, plan_build
from enginery.builder.options import BuildRequest

from .checkpoints import write_tiny_checkpoint

# As options of a build.
SCHEMES: dict[str, dict[str, str]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8_wo": {"dtype": "bfloat16", "qformat": "int8_wo"},
    "int8_dynamic": {"dtype": "bfloat16", "qformat": "int8_dynamic"},
    "w4a8_dynamic": {"dtype": "bfloat16", "qformat": "w4a8_dynamic"},
}


def build_engine(model: Path, output: Path, scheme: str = "float32", **options: Any) -> Path:
    """Builds the checkpoint `model` into `output`, with options of `BuildRequest`."""
    request = BuildRequest(model=model, output=output, **{**SCHEMES[scheme], **options})
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
