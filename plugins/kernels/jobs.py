# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels in worker processes: a compiler that crashes takes one job with it.

A worker is `compiler.py` run as a program. It never interprets, whatever this process does, so this
module imports nothing but the specifications.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import KERNELS, compiler_environment

WORKER = "enginery.plugins.kernels.compiler"


class KernelCompileError(RuntimeError):
    """A kernel did not compile; the message names the job."""


@dataclass(frozen=True)
class CompileJob:
    """One instance of a kernel for one compute capability."""

    name: str
    """Unique among the jobs; the cubin is called so. Of letters, digits, '_', '-' and '.'."""
    spec: str
    """Name in `spec.KERNELS`."""
    types: dict[str, str]
    """Parameter -> type as the language writes it ("*bf16", "i32"), for what is passed."""
    constants: dict[str, int | float | bool | str | None]
    """Parameter -> value of every constexpr, and None of every absent pointer."""
    capability: tuple[int, int]
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.name):
            raise ValueError(
                f"name {self.name!r} is not a file's: use letters, digits, '_', '-' and '.'"
            )
        if self.spec not in KERNELS:
            raise ValueError(f"{self.name}: spec {self.spec!r} is not one of {sorted(KERNELS)}")


@dataclass(frozen=True)
class CompiledKernel:
    """A cubin and what launching it takes."""

    name: str
    spec: str
    version: int
    source_sha256: str
    cubin: Path
    entry: str
    num_warps: int
    num_stages: int
    shared_bytes: int
    """Dynamic shared memory per program."""
    num_params: int
    """Parameters of the entry, the compiler's scratch pointers at the end included."""
    registers: int
    """Per thread."""
    spill_bytes: int
    """Spill stores and loads per thread, in bytes."""
    instructions: tuple[str, ...]
    """Matrix instructions used: of "wgmma", "tcgen05", "mma.sync"."""
    signature: tuple[tuple[str, str], ...]
    """(parameter, type or "constexpr") in source order."""
    constants: dict[str, int | float | bool | str | None]
    programmatic_launch: bool = False
    """Waits by itself for the kernel before it, so that it may be launched early."""

    def record(self) -> dict[str, Any]:
        """Returns the kernel's entry in an engine's `sku.json`."""
        record = dataclasses.asdict(self)
        del record["name"], record["instructions"]
        record["cubin"] = f"kernels/{self.name}.cubin"
        record["signature"] = [list(pair) for pair in self.signature]
        return record


def compile_jobs(
    jobs: Sequence[CompileJob],
    folder: Path,
    *,
    workers: int = 1,
    on_done: Callable[[CompiledKernel], None] | None = None,
) -> list[CompiledKernel]:
    """Compiles `jobs` without a GPU and writes `<name>.cubin` of each into `folder`.

    Args:
        jobs: what to compile; names are unique.
        folder: an existing folder.
        workers: processes; the jobs are dealt out to them in turn.
        on_done: called after each job, from one thread at a time.

    Returns:
        The kernels in the order of the jobs.

    Raises:
        KernelCompileError: a job failed or took its worker down; the message names it.
        ValueError: two jobs have one name, or workers < 1.
    """
    if len({job.name for job in jobs}) != len(jobs):
        raise ValueError("jobs: two have one name")
    if workers < 1:
        raise ValueError(f"workers {workers} must be at least 1")
    done: dict[str, CompiledKernel] = {}
    errors: list[BaseException] = []
    lock = threading.Lock()

    def finished(kernel: CompiledKernel) -> None:
        with lock:
            done[kernel.name] = kernel
            if on_done is not None:
                on_done(kernel)

    def work(share: Sequence[CompileJob]) -> None:
        try:
            _run_worker(share, folder, finished)
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    shares = [jobs[i::workers] for i in range(min(workers, len(jobs)))]
    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [done[job.name] for job in jobs]


def _run_worker(
    jobs: Sequence[CompileJob], folder: Path, finished: Callable[[CompiledKernel], None]
) -> None:
    """Runs one worker over `jobs`, in order."""
    with tempfile.TemporaryDirectory(prefix="enginery_compile_") as scratch:
        errors = Path(scratch) / "stderr"
        requests = Path(scratch) / "jobs"
        requests.write_text("".join(json.dumps(dataclasses.asdict(j)) + "\n" for j in jobs))
        # The language's own cache would answer from another build's folder.
        environment = compiler_environment() | {"TRITON_CACHE_DIR": f"{scratch}/cache"}
        with errors.open("wb") as stderr, requests.open("rb") as stdin:
            worker = subprocess.Popen(
                # -P: what lies in the working directory is not to be imported.
                [sys.executable, "-P", "-m", WORKER, str(folder)],
                stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True,
            )  # fmt: skip
        assert worker.stdout is not None
        left = list(jobs)
        with worker:
            for line in worker.stdout:
                result = json.loads(line)
                if "error" in result:
                    worker.kill()
                    raise KernelCompileError(_describe(left[0]) + ": " + result["error"])
                finished(_kernel(result))
                left.pop(0)
        if left:
            said = errors.read_text("utf-8", "replace")[-2000:].strip()
            raise KernelCompileError(
                f"{_describe(left[0])}: the compiler's process ended with status "
                f"{worker.returncode}" + (f":\n{said}" if said else "")
            )


def _kernel(result: dict[str, Any]) -> CompiledKernel:
    signature = tuple((name, kind) for name, kind in result.pop("signature"))
    instructions = tuple(result.pop("instructions"))
    cubin = Path(result.pop("cubin"))
    return CompiledKernel(signature=signature, instructions=instructions, cubin=cubin, **result)


def _describe(job: CompileJob) -> str:
    major, minor = job.capability
    return f"kernel {job.name} ({job.spec}, compute capability {major}.{minor}, {job.constants})"
