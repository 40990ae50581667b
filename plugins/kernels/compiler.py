# SPDX-License-Identifier: Apache-2.0
"""Compiles one kernel to a cubin, with no GPU; as a program, the worker of `jobs.compile_jobs`.

    python -m enginery.plugins.kernels.compiler FOLDER

reads one job a line (JSON of `CompileJob`) from standard input, writes `FOLDER/<name>.cubin`, and
prints one line of JSON per job: a `CompiledKernel`, or {"name", "error"}.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .jobs import CompiledKernel, CompileJob
from .spec import KERNELS, load, require_compiler, source_sha256

# The highest version of PTX that a CUDA 13.0 driver takes. The compiler's own choice for compute
# capability 9.0 and up is a later one; below it, this version does not go with its assembler.
PTX_VERSION = 90
ALIGNMENT = 16  # bytes; every buffer and tensor of an engine begins at a multiple
MATRIX_INSTRUCTIONS = {"wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma", "mma.sync": "mma.sync"}


def compile_kernel(job: CompileJob, folder: Path) -> CompiledKernel:
    """Compiles `job` and writes `<name>.cubin` into `folder`.

    Pointers are taken to be 16-byte aligned; integers are not specialised for any value.

    Raises:
        ImportError: the Triton language is not installed: `pip install enginery[rtx]`.
        RuntimeError: this process interprets kernels.
        ValueError: types and constants are not those of the kernel.
        Exception: what the compiler raises for source that it refuses.
    """
    require_compiler()
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    spec = KERNELS[job.spec]
    constants = dict(job.constants)
    if "INTERPRET" in {parameter.name for parameter in spec.parameters}:
        constants.setdefault("INTERPRET", False)
    signature = spec.signature(job.types, constants)
    capability = 10 * job.capability[0] + job.capability[1]
    options: dict[str, Any] = {"num_warps": job.num_warps, "num_stages": job.num_stages}
    if capability >= 90:
        options["ptx_version"] = PTX_VERSION
    source = ASTSource(
        fn=load(job.spec),
        signature=dict(signature),
        constexprs=constants,
        attrs={
            (i,): [["tt.divisibility", ALIGNMENT]]
            for i, (_, kind) in enumerate(signature)
            if kind.startswith("*")
        },
    )
    target = GPUTarget("cuda", capability, 32)
    # Kernels ask which capability they are compiled for; the language asks the GPU that is there.
    triton.runtime.driver.set_active(_CompileOnlyDriver(target))
    compiled = triton.compile(source, target=target, options=options)
    cubin = folder / f"{job.name}.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    entry = re.search(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)", ptx)
    assert entry is not None, "PTX without an entry"
    registers, spill_bytes = _resources(ptx, capability)
    return CompiledKernel(
        name=job.name,
        spec=job.spec,
        version=spec.version,
        source_sha256=source_sha256(job.spec),
        cubin=cubin,
        entry=entry.group(1),
        num_warps=compiled.metadata.num_warps,
        num_stages=job.num_stages,
        shared_bytes=compiled.metadata.shared,
        num_params=entry.group(2).count(".param"),
        registers=registers,
        spill_bytes=spill_bytes,
        instructions=tuple(name for name, text in MATRIX_INSTRUCTIONS.items() if text in ptx),
        signature=tuple(signature),
        constants=constants,
        programmatic_launch="griddepcontrol.wait" in ptx,
    )


class _CompileOnlyDriver:
    """What kernels take for the GPU's driver where only the target is known."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target


def _resources(ptx: str, capability: int) -> tuple[int, int]:
    """Returns (registers per thread, bytes of spill stores and loads per thread).

    The language does not keep what its assembler says, so the PTX is assembled once more.
    """
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [
            get_ptxas(capability).path, "-v", f"--gpu-name={sm_arch_from_capability(capability)}",
            file.name, "-o", "/dev/null",
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert registers is not None and spills is not None, said
    return int(registers.group(1)), int(spills.group(1)) + int(spills.group(2))


def _explain(error: BaseException) -> str:
    """Returns the innermost reason: the compiler wraps an error once per call of a helper."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def main(folder: Path) -> None:
    """Compiles the jobs on standard input; stops at the first that fails."""
    # The assembler prints what it refuses to standard output, which is for results alone.
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        fields = json.loads(line)
        job = CompileJob(**fields | {"capability": tuple(fields["capability"])})
        try:
            result = dataclasses.asdict(compile_kernel(job, folder))
        except Exception as error:  # the compiler raises all kinds
            print(
                json.dumps({"name": job.name, "error": _explain(error)}), file=results, flush=True
            )
            return
        print(json.dumps(result | {"cubin": str(result["cubin"])}), file=results, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
