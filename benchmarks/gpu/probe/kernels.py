# SPDX-License-Identifier: Apache-2.0
"""Cubin and PTX compiled with no GPU, loaded through cuda-python: checked, and GEMMs timed."""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
from typing import Any

import torch

from benchmarks.gpu.launcher import Kernel
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.timing import median_us

ERROR_LIMIT = 1e-2


def run_axpy(image: bytes, launch: dict[str, Any]) -> Outcome:
    """Launches y = 2x + 1 over 5000 elements and compares."""
    kernel = Kernel(image, launch)
    x = torch.randn(5000, device="cuda").half()
    y = torch.full_like(x, torch.nan)
    kernel.launch(torch.cuda.current_stream(), 5, x, y, 5000)
    torch.cuda.synchronize()
    error = float((y - (x * 2 + 1)).abs().max())
    if not error <= ERROR_LIMIT:
        raise ArithmeticError(f"max error {error}")
    return {"max_error": error}


def random_operand(dtype: str, rows: int, k: int) -> torch.Tensor:
    """`[rows, k]` random codes of "fp16", "fp8" or "int8"."""
    x = torch.randn(rows, k, device="cuda")
    if dtype == "int8":
        return (x * 30).round().clamp(-127, 127).to(torch.int8)
    return x.to(torch.float16 if dtype == "fp16" else torch.float8_e4m3fn)


def measure_gemm(
    kernel: Kernel, tile: list[int], weights: list[torch.Tensor], dtype: str, m: int
) -> Outcome:
    """Checks and times y[m, n] = (x[m, k] @ w[n, k].T) * scale, the weights taken in turn."""
    bm, bn, _ = tile
    n, k = weights[0].shape
    x = random_operand(dtype, m, k)
    scale = torch.rand(n, device="cuda") / (k**0.5 * (900 if dtype == "int8" else 1))
    y = torch.full((m, n), torch.nan, device="cuda", dtype=torch.float16)
    grid = -(-m // bm) * (n // bn)

    def run(weight: torch.Tensor) -> None:
        kernel.launch(torch.cuda.current_stream(), grid, x, weight, scale, y, m)

    run(weights[0])
    expected = x.float() @ weights[0].float().T * scale
    error = float((y.float() - expected).norm() / expected.norm())
    if not error <= ERROR_LIMIT:
        raise ArithmeticError(f"m={m}: relative error {error}")
    turn = itertools.cycle(weights)
    us = median_us(lambda: run(next(turn)))
    out: Outcome = {
        "relative_error": error,
        "us": us,
        "weight_gb_per_s": weights[0].nbytes / us / 1e3,
        "tera_ops_per_s": 2 * m * n * k / us / 1e6,
    }
    if dtype == "fp16":
        out["torch_us"] = median_us(lambda: x @ next(turn).T)
    return out


def run_gemm(image: bytes, launch: dict[str, Any], dtype: str, tile: str, shape: str) -> Outcome:
    """One ahead-of-time GEMM at each number of rows of its tile; `shape` is "<k>x<n>"."""
    kernel = Kernel(image, launch)
    k, n = map(int, shape.split("x"))
    # Three weights in turn, so that none is found in L2.
    weights = [random_operand(dtype, n, k) for _ in range(3)]
    out: Outcome = {"matrix_instructions": launch["matrix_instructions"]}
    for m in (1, 16, 64) if tile == "decode" else (64, 256, 2048):
        out[f"m={m}"] = measure_gemm(kernel, launch["tile"], weights, dtype, m)
    return out


def probe_kernels(steps: Steps, folder: pathlib.Path) -> None:
    """Every image that kernels.json names."""
    index = json.loads((folder / "kernels.json").read_text())
    for file in ("axpy.cubin", "axpy_isa90.ptx", "axpy_default.ptx"):
        image = (folder / file).read_bytes()
        steps.run(file, functools.partial(run_axpy, image, index["axpy"]))
    for name, launch in index.items():
        if name.startswith("gemm"):
            _, dtype, tile, shape = name.split("_")
            image = (folder / f"{name}.cubin").read_bytes()
            steps.run(name, functools.partial(run_gemm, image, launch, dtype, tile, shape))
