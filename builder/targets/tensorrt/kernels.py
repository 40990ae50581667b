# SPDX-License-Identifier: Apache-2.0
"""The kernels of an engine: collected once each, compiled beside this process, kept in the cache.

A kernel is an instance of a Triton-language function: argument types, constants, warps and stages.
Everything that names one goes through a `KernelSet`, so that what two steps share is compiled once
for each compute capability, whatever the number of layers and SKUs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.builder.cache import Cache, content_key
from enginery.builder.errors import BuildError, Problem, Problems
from enginery.builder.packages import package_version
from enginery.builder.targets.tensorrt.archive import json_member, read_archive, write_archive
from enginery.plugins.kernels import jobs, tiles
from enginery.plugins.kernels.spec import FOLDER, KERNELS, source_sha256

Constant = int | float | bool | str | None
CACHE_KIND = "kernels"
MAX_WORKERS = 2
# dtype of the engine format -> pointer type of the Triton language; i4 comes two to a byte
POINTERS = {
    "f32": "*fp32",
    "bf16": "*bf16",
    "f16": "*fp16",
    "f8e4m3": "*fp8e4nv",
    "i8": "*i8",
    "i4": "*i8",
}


@dataclass(frozen=True)
class Kernel:
    """One kernel to compile.

    Attributes:
        name: `<spec>_<hash of the rest>`, the same for every SKU.
        spec: a key of `enginery.plugins.kernels.spec.KERNELS`.
        types: type of each argument by parameter.
        constants: value of every other parameter; None where an optional pointer is left out.
        num_warps: warps of a program.
        num_stages: stages of its software pipeline.
    """

    name: str
    spec: str
    types: Mapping[str, str]
    constants: Mapping[str, Constant]
    num_warps: int
    num_stages: int

    def cache_key(self, capability: tuple[int, int]) -> str:
        """Of the compiled kernel: its source, all of the above and what compiles it."""
        return content_key(
            {
                "spec": self.spec,
                "spec_version": KERNELS[self.spec].version,
                "source_sha256": _source_sha256(self.spec),
                "types": self.types,
                "constants": self.constants,
                "num_warps": self.num_warps,
                "num_stages": self.num_stages,
                "capability": capability,
                "compiler": [package_version("triton"), _driver_sha256()],
            }
        )


class KernelSet:
    """The kernels that an engine needs on one SKU, by name."""

    def __init__(self) -> None:
        self.kernels: dict[str, Kernel] = {}

    def add(
        self,
        spec: str,
        types: Mapping[str, str | None],
        constants: Mapping[str, Constant],
        *,
        num_warps: int,
        num_stages: int = 1,
    ) -> str:
        """Enters a kernel and returns its name.

        Args:
            spec: the kernel's specification.
            types: of the arguments; None for an optional pointer that is left out.
            constants: of the compile-time parameters.
            num_warps: warps of a program.
            num_stages: stages of its software pipeline.
        """
        passed = {name: kind for name, kind in types.items() if kind is not None}
        fixed = dict(constants) | {name: None for name, kind in types.items() if kind is None}
        order = [parameter.name for parameter in KERNELS[spec].parameters]
        fixed = {name: fixed[name] for name in order if name in fixed}
        KERNELS[spec].signature(passed, fixed)
        text = json.dumps([spec, passed, fixed, num_warps, num_stages], sort_keys=True)
        name = f"{spec}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        self.kernels[name] = Kernel(name, spec, passed, fixed, num_warps, num_stages)
        return name


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel as it stands in an engine: its entry of sku.json and its code."""

    record: Mapping[str, Any]
    cubin: bytes


def cached_kernels(
    kernels: Iterable[Kernel], capability: tuple[int, int], cache: Cache
) -> dict[str, CompiledKernel]:
    """Those of the kernels that the cache holds, by name."""
    found = {}
    for kernel in kernels:
        content = cache.get(CACHE_KIND, kernel.cache_key(capability))
        if content is not None:
            members = read_archive(content)
            found[kernel.name] = CompiledKernel(
                json.loads(members["kernel.json"]), members["kernel.cubin"]
            )
    return found


def compile_kernels(
    kernels: Iterable[Kernel],
    capability: tuple[int, int],
    cache: Cache,
    on_done: Callable[[], None] = lambda: None,
) -> dict[str, CompiledKernel]:
    """Compiles kernels in processes of their own, at most `MAX_WORKERS`, and caches each.

    Args:
        kernels: what to compile, whether cached or not.
        capability: compute capability to compile for.
        cache: takes the results.
        on_done: called as each is done, from one thread at a time.

    Raises:
        BuildError: the compiler is not installed.
        KernelCompileError: a kernel does not compile.
    """
    if package_version("triton") is None:
        problem = Problem("triton", "is not installed", "pip install 'enginery[rtx]'")
        raise BuildError("tensorrt target", [problem])
    by_name = {kernel.name: kernel for kernel in kernels}
    compiled: dict[str, CompiledKernel] = {}
    failures: list[OSError] = []  # of a thread of the jobs', to be raised in this one

    def keep(result: jobs.CompiledKernel) -> None:
        try:
            kernel = CompiledKernel(result.record(), result.cubin.read_bytes())
            compiled[result.name] = kernel
            entry = {"kernel.json": json_member(kernel.record), "kernel.cubin": kernel.cubin}
            key = by_name[result.name].cache_key(capability)
            cache.put(CACHE_KIND, key, write_archive(entry))
        except OSError as error:
            failures.append(error)
        on_done()

    with tempfile.TemporaryDirectory(prefix="enginery-kernels-") as folder:
        jobs.compile_jobs(
            [_job(kernel, capability) for kernel in by_name.values()],
            Path(folder),
            workers=min(MAX_WORKERS, max(1, len(by_name))),
            on_done=keep,
        )
    if failures:
        raise failures[0]
    return {name: compiled[name] for name in by_name}


def check_shared_memory(kernels: Mapping[str, CompiledKernel], capability: tuple[int, int]) -> None:
    """Checks that programs have the shared memory that kernels ask for: the compiler does not.

    Raises:
        BuildError: with every kernel for which there is too little.
    """
    most = tiles.SHARED_BYTES[10 * capability[0] + capability[1]]
    subject = f"kernels for compute capability {capability[0]}.{capability[1]}"
    problems = Problems(subject, BuildError)
    for kernel in kernels.values():
        needed, constants = kernel.record["shared_bytes"], kernel.record["constants"]
        if needed > most:
            sizes = ", ".join(f"{name} {v}" for name, v in constants.items() if type(v) is int)
            problems.add(
                kernel.record["spec"],
                f"takes {needed} bytes of shared memory, a program has {most}; with {sizes}",
                "this model is not built for such GPUs yet: choose --sku cpu",
            )
    problems.raise_if_any()


@functools.cache
def _source_sha256(spec: str) -> str:
    """As `source_sha256`, which parses the sources each time."""
    return source_sha256(spec)


@functools.cache
def _driver_sha256() -> str:
    """Of the modules that choose the compiler's options and say what it made."""
    digest = hashlib.sha256()
    for name in ("compiler.py", "jobs.py"):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()


def _job(kernel: Kernel, capability: tuple[int, int]) -> jobs.CompileJob:
    return jobs.CompileJob(
        name=kernel.name,
        spec=kernel.spec,
        types=dict(kernel.types),
        constants=dict(kernel.constants),
        capability=capability,
        num_warps=kernel.num_warps,
        num_stages=kernel.num_stages,
    )
