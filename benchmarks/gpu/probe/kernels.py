# SPDX-License-Identifier: Apache-2.0
"""Cubin and PTX compiled with no GPU, loaded and launched through cuda-python."""

from __future__ import annotations

import functools
import json
import pathlib
from typing import Any

import torch

from benchmarks.gpu.launcher import Kernel
from benchmarks.gpu.steps import Outcome, Steps

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


def probe_kernels(steps: Steps, folder: pathlib.Path) -> None:
    """The same kernel from a cubin and from PTX of two versions."""
    index = json.loads((folder / "kernels.json").read_text())
    for file in ("axpy.cubin", "axpy_isa90.ptx", "axpy_default.ptx"):
        image = (folder / file).read_bytes()
        steps.run(file, functools.partial(run_axpy, image, index["axpy"]))
