# SPDX-License-Identifier: Apache-2.0
"""Stands in for the compiler of kernels: cubins of a few bytes, at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from enginery.plugins.kernels import jobs
from enginery.plugins.kernels import spec as specifications
from enginery.plugins.kernels.spec import KERNELS

source_sha256 = functools.cache(specifications.source_sha256)


class FakeCompiler:
    """Replaces `compile_jobs` and remembers what it was asked for.

    Attributes:
        compiled: all jobs so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compiled: list[jobs.CompileJob] = []
        monkeypatch.setattr(jobs, "compile_jobs", self._compile_jobs)

    @property
    def specs(self) -> set[str]:
        """Names of the specifications that were compiled."""
        return {job.spec for job in self.compiled}

    def _compile_jobs(
        self,
        asked: Sequence[jobs.CompileJob],
        folder: Path,
        *,
        workers: int = 1,
        on_done: Callable[[jobs.CompiledKernel], None] | None = None,
    ) -> list[jobs.CompiledKernel]:
        kernels = []
        for job in asked:
            signature = KERNELS[job.spec].signature(job.types, job.constants)
            cubin = folder / f"{job.name}.cubin"
            cubin.write_bytes(f"{job.name} for {job.capability}".encode())
            kernel = jobs.CompiledKernel(
                name=job.name,
                spec=job.spec,
                version=KERNELS[job.spec].version,
                source_sha256=source_sha256(job.spec),
                cubin=cubin,
                entry=job.spec,
                num_warps=job.num_warps,
                num_stages=job.num_stages,
                shared_bytes=0,
                num_params=len(job.types) + 2,
                registers=32,
                spill_bytes=0,
                instructions=(),
                signature=tuple(signature),
                constants=dict(job.constants),
            )
            kernels.append(kernel)
            self.compiled.append(job)
            if on_done is not None:
                on_done(kernel)
        return kernels
