# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from enginery.plugins.kernels import jobs, tiles
from enginery.plugins.kernels.jobs import CompileJob, KernelCompileError, compile_jobs

CAPABILITIES = ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0))
BF16 = "*bf16"
# Operands -> types of x, weight and scale, and WEIGHT.
OPERANDS = {
    "act": (BF16, BF16, None, "same"),
    "fp8": ("*fp8e4nv", "*fp8e4nv", "*fp32", "same"),
    "int8": ("*i8", "*i8", "*fp32", "same"),
    "int8_wo": (BF16, "*i8", BF16, "int8_wo"),
    "int4_wo": (BF16, "*u8", BF16, "int4_wo"),
}


def gemm_job(
    capability: tuple[int, int], operands: str, tile: tiles.GemmTile, n: int, k: int, spec: str
) -> CompileJob:
    """`gemm` with residual, or `gemm_swiglu` that gives what its input is."""
    x, weight, scale, kind = OPERANDS[operands]
    types = {"x": x, "weight": weight, "rows": "i32", "y": x}
    constants: dict[str, Any] = tile.constants() | {"K": k, "WEIGHT": kind, "bias": None}
    if scale is None:
        constants["scale"] = None
    else:
        types["scale"] = scale
    if spec == "gemm":
        types |= {"residual": "*fp32", "y": "*fp32"}
        constants["N"] = n
    else:
        constants["F"] = n
        if x == BF16:
            constants["inverse"] = None
        else:
            types["inverse"] = "*fp32"
    name = f"{spec}-{operands}-{tile.block_m}x{tile.block_n}-{capability[0]}{capability[1]}-{n}x{k}"
    return CompileJob(name, spec, types, constants, capability, tile.num_warps, tile.num_stages)


def row_job(capability: tuple[int, int], spec: str) -> CompileJob:
    eight_bits = "*i8" if capability < (8, 9) else "*fp8e4nv"
    columns = 4096
    row, chunk = tiles.row_tile(columns), tiles.chunk_tile(columns)
    chunks: dict[str, Any] = {"COLUMNS": columns, "BLOCK": chunk.block}
    known: dict[str, tuple[dict[str, str], dict[str, Any], int]] = {
        "rms_norm": (
            {"x": "*fp32", "weight": "*fp32", "inverse": "*fp32", "out": eight_bits},
            {"EPSILON": 1e-5, "COLUMNS": columns, "BLOCK": row.block},
            row.num_warps,
        ),
        "quantize": ({"x": BF16, "inverse": "*fp32", "out": eight_bits}, chunks, chunk.num_warps),
        "scale_columns": (
            {"x": BF16, "factor": "*fp32", "inverse": "*fp32", "out": eight_bits},
            chunks,
            chunk.num_warps,
        ),
        "add": ({"a": "*fp32", "b": "*fp32", "out": "*fp32"}, chunks, chunk.num_warps),
    }
    types, constants, num_warps = known[spec]
    name = f"{spec}-{capability[0]}{capability[1]}"
    return CompileJob(name, spec, types, constants, capability, num_warps, 3)


def sample_job(capability: tuple[int, int], vocab: int) -> CompileJob:
    tile = tiles.sample_tile(vocab)
    types = {"logits": "*fp32", "samples": "*i32", "token_ids": "*i32", "scratch": "*fp32"}
    constants: dict[str, Any] = {"VOCAB": vocab, "BLOCK": tile.block}
    return CompileJob(
        f"sample-{vocab}-{capability[0]}{capability[1]}", "sample", types, constants, capability,
        tile.num_warps, 3,
    )  # fmt: skip


def supports(capability: tuple[int, int], operands: str) -> bool:
    return operands != "fp8" or capability >= (8, 9)


def check(kernel: jobs.CompiledKernel, job: CompileJob) -> None:
    assert kernel.spill_bytes == 0, kernel.name
    family = 10 * job.capability[0] + job.capability[1]
    assert kernel.shared_bytes <= tiles.SHARED_BYTES[family], kernel.name
    assert kernel.cubin.read_bytes()[:4] == b"\x7fELF"
    passed = [kind for _, kind in kernel.signature if kind != "constexpr"]
    assert kernel.num_params >= len(passed)


def test_one_of_each_kernel(tmp_path: Path) -> None:
    """The largest tiles, which are those that could spill."""
    todo = [row_job((9, 0), spec) for spec in ("quantize", "scale_columns", "add")]
    todo.append(sample_job((9, 0), 512))
    for capability, operands, spec in (
        ((8, 0), "int8", "gemm"),
        ((8, 9), "fp8", "gemm_swiglu"),
        ((9, 0), "int8", "gemm_swiglu"),
        ((10, 0), "act", "gemm"),
        ((12, 0), "int4_wo", "gemm_swiglu"),
        ((12, 0), "act", "gemm"),
        ((8, 0), "act", "gemm_swiglu"),
        ((8, 9), "act", "gemm"),
        ((10, 0), "fp8", "gemm_swiglu"),
        ((9, 0), "fp8", "gemm"),
        ((9, 0), "act", "gemm"),
    ):
        variants = tiles.swiglu_variants if spec == "gemm_swiglu" else tiles.gemm_variants
        tile = variants(capability, operands, 14336, 4096)[-1]
        todo.append(row_job(capability, "rms_norm"))
        todo.append(gemm_job(capability, operands, tile, 14336, 4096, spec))
    todo = list({job.name: job for job in todo}.values())
    seen: list[str] = []
    kernels = compile_jobs(todo, tmp_path, workers=2, on_done=lambda k: seen.append(k.name))
    assert sorted(seen) == sorted(job.name for job in todo)
    for kernel, job in zip(kernels, todo, strict=True):
        check(kernel, job)
    assert kernels[-1].instructions == ("wgmma",)
    record = kernels[-1].record()
    assert record["cubin"] == f"kernels/{todo[-1].name}.cubin"
    assert dict(record["signature"])["bias"] == "constexpr"
    assert record["constants"]["bias"] is None and record["constants"]["INTERPRET"] is False


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_tile(capability: tuple[int, int], tmp_path: Path) -> None:
    todo = [sample_job(capability, 128256)]
    for operands in OPERANDS:
        if not supports(capability, operands):
            continue
        for n, k in ((4096, 14336), (28672, 896)):
            for tile in tiles.gemm_variants(capability, operands, n, k):
                todo.append(gemm_job(capability, operands, tile, n, k, "gemm"))
        for tile in tiles.swiglu_variants(capability, operands, 14336, 4096):
            todo.append(gemm_job(capability, operands, tile, 14336, 4096, "gemm_swiglu"))
    for kernel, job in zip(compile_jobs(todo, tmp_path, workers=2), todo, strict=True):
        check(kernel, job)


ADD = CompileJob(
    "add", "add", {"a": "*fp32", "b": "*fp32", "out": "*fp32"}, {"COLUMNS": 64, "BLOCK": 64},
    (9, 0), 1, 3,
)  # fmt: skip


def test_parameters_that_do_not_fit_are_named(tmp_path: Path) -> None:
    job = CompileJob("no_out", "add", {"a": "*fp32", "b": "*fp32"}, ADD.constants, (9, 0), 1, 3)
    with pytest.raises(KernelCompileError, match=r"kernel no_out \(add.*out is missing"):
        compile_jobs([job], tmp_path)


def test_jobs_before_one_that_fails_are_reported(tmp_path: Path) -> None:
    bad = CompileJob("bad", "add", ADD.types, {"COLUMNS": 64, "BLOCK": 63}, (9, 0), 1, 3)
    seen: list[str] = []
    with pytest.raises(KernelCompileError, match=r"kernel bad \(add, compute capability 9\.0"):
        compile_jobs([ADD, bad], tmp_path, on_done=lambda kernel: seen.append(kernel.name))
    assert seen == ["add"]


def test_dead_worker_is_reported_with_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies.py").write_text(
        "import os, sys\nprint('no PTX', file=sys.stderr)\nos.abort()"
    )
    monkeypatch.setattr(jobs, "WORKER", "dies")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(KernelCompileError, match=r"(?s)kernel add .*status -6.*no PTX"):
        compile_jobs([ADD], tmp_path)


def test_package_in_the_working_directory_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the checkout's folder `enginery`, which is but a part of the installed package."""
    (tmp_path / "enginery").mkdir()
    (tmp_path / "enginery" / "__init__.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "triton.py").write_text("raise RuntimeError('nor this one')")
    monkeypatch.chdir(tmp_path)
    assert [kernel.name for kernel in compile_jobs([ADD], tmp_path)] == ["add"]


@pytest.mark.parametrize("change", [{"name": "../a"}, {"name": ""}, {"spec": "convolution"}])
def test_job_that_makes_no_sense(change: dict[str, str]) -> None:
    fields = {"name": "add", "spec": "add"} | change
    with pytest.raises(ValueError, match=r"name|spec"):
        CompileJob(fields["name"], fields["spec"], {}, {}, (9, 0), 1, 3)


def test_two_jobs_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one name"):
        compile_jobs([ADD, ADD], tmp_path)
