# SPDX-License-Identifier: Apache-2.0
"""Tiny engines, built by the builder in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.options import BuildRequest

from .engine_reader import Engine, read_engine


def plan_tiny(model: Path, output: Path | None = None, **options: Any) -> PlannedBuild:
    """Plans a build of a tiny checkpoint, in float32 unless `options` say otherwise."""
    return plan_build(BuildRequest(model, output, **({"dtype": "float32"} | options)))


def build_tiny(model: Path, output: Path, **options: Any) -> list[Engine]:
    """Builds an engine directory and reads the file of every rank."""
    planned = plan_tiny(model, output, **options)
    build(planned)
    return [read_engine(output / f"rank{rank}.engine") for rank in range(planned.options.tp_size)]
