# SPDX-License-Identifier: Apache-2.0
"""A build without its weights: everything is compiled, nothing is written."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from enginery.builder.build import PlannedBuild, artifacts_of
from enginery.builder.progress import KERNELS, PLANS, UNIT_SECONDS, WEIGHTS, Progress, no_progress


@dataclass(frozen=True)
class DryRun:
    """What a build would take and give beside the weights.

    Attributes:
        num_kernels, num_plans: compiled parts of the engine.
        num_cached: how many of them the cache held.
        compiled_bytes: size of the sections that hold them, of all ranks and SKUs.
        seconds: wall time of compiling.
        weight_bytes: packed weights, of all ranks.
        weight_seconds: an estimate for reading, packing and writing them.
    """

    num_kernels: int
    num_plans: int
    num_cached: int
    compiled_bytes: int
    seconds: float
    weight_bytes: int
    weight_seconds: float

    def to_json(self) -> dict[str, int | float]:
        """The attributes by name."""
        return dataclasses.asdict(self)


def dry_run(planned: PlannedBuild, progress: Progress = no_progress) -> DryRun:
    """Compiles what an engine needs, from its configuration alone, and writes nothing.

    What it compiled stays in the cache, so that the build finds it.

    Raises:
        BuildError: something cannot be compiled.
        KernelCompileError: a kernel does not compile.
    """
    totals = {KERNELS: 0, PLANS: 0}
    cached = {KERNELS: 0, PLANS: 0}

    def watch(stage: str, done: int, total: int) -> None:
        if not totals[stage]:
            totals[stage], cached[stage] = total, done
        progress(stage, done, total)

    start = time.monotonic()
    artifacts = artifacts_of(planned)
    artifacts.make(watch)
    seconds = time.monotonic() - start
    sections = [s for rank in range(len(planned.payloads)) for s in artifacts.sections(rank)]
    return DryRun(
        num_kernels=totals[KERNELS],
        num_plans=totals[PLANS],
        num_cached=sum(cached.values()),
        compiled_bytes=sum(section.num_bytes for section in sections),
        seconds=seconds,
        weight_bytes=planned.weight_bytes,
        weight_seconds=planned.weight_bytes * UNIT_SECONDS[WEIGHTS],
    )
