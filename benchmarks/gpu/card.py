# SPDX-License-Identifier: Apache-2.0
"""What the card itself does: copy bandwidth and matrix rates through torch, on random data."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from importlib import metadata

import torch

from benchmarks.gpu.steps import Outcome
from benchmarks.gpu.timing import median_us

SIZE = 8192


def environment() -> Outcome:
    """Names and versions of the card, the driver and the packages in use."""
    device = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    versions = {}
    for name in ("torch", "triton", "cuda-bindings", "numpy", "onnx"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "gpu": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_mib": device.total_memory >> 20,
        "l2_mib": device.L2_cache_size >> 20,
        "driver": subprocess.run(query, capture_output=True, text=True).stdout.strip(),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    } | versions


def copy_bandwidth() -> dict[str, float]:
    """Device-to-device copy of 4 GiB, counting bytes read and bytes written."""
    source = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    us = median_us(lambda: target.copy_(source), repeats=20, warmup=3)
    return {"us": us, "gb_per_s": 2 * source.numel() / us / 1e3}


def _rate(run: Callable[[], torch.Tensor]) -> dict[str, float]:
    us = median_us(run, repeats=20, warmup=3)
    return {"us": us, "tera_ops_per_s": 2 * SIZE**3 / us / 1e6}


def matmul_rate(dtype: str) -> dict[str, float]:
    """A SIZE^3 product of "fp16", "bf16", "fp8" (E4M3, float32 scales) or "int8" operands."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda") for _ in range(2))
    if dtype == "fp8":
        a8, b8 = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        one = torch.ones((), device="cuda")
        return _rate(
            lambda: torch._scaled_mm(a8, b8, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        )
    if dtype == "int8":
        ai, bi = (a * 30).to(torch.int8), (b * 30).to(torch.int8).t()
        return _rate(lambda: torch._int_mm(ai, bi))
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    ah, bh = a.to(kind), b.to(kind).t()
    return _rate(lambda: ah @ bh)
