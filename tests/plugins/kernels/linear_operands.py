# SPDX-License-Identifier: Apache-2.0
"""Operands of the GEMM kernels as a scheme stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SCHEMES = ("bfloat16", "float16", "fp8", "int8", "int8_wo", "int4_wo")


@dataclass
class Operands:
    """One linear layer's operands, as tensors, and as numpy for the reference."""

    x: Any
    weight: Any
    scale: Any
    kind: str

    def reference(self) -> tuple[Any, Any, Any]:
        """x, weight and scale for the reference."""
        weight = self.weight.numpy() if self.kind == "int4_wo" else self.weight.float().numpy()
        scale = None if self.scale is None else self.scale.float().numpy()
        return self.x.float().numpy(), weight, scale


def make(scheme: str, rows: int, n: int, k: int) -> Operands:
    """Random operands of `scheme`; real weights are of the size of 1 / sqrt(k)."""
    rng = np.random.default_rng(1000 * n + k)

    def normal(*shape: int) -> Any:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    def codes(*shape: int) -> Any:
        return torch.from_numpy(rng.integers(-127, 128, shape).astype(np.int8))

    small = torch.from_numpy(rng.random(n).astype(np.float32) + 0.5) / k**0.5
    if scheme in ("bfloat16", "float16"):
        act = getattr(torch, scheme)
        return Operands(normal(rows, k).to(act), (normal(n, k) / k**0.5).to(act), None, "same")
    if scheme == "fp8":
        fp8 = torch.float8_e4m3fn
        return Operands(normal(rows, k).to(fp8), normal(n, k).to(fp8), small, "same")
    if scheme == "int8":
        return Operands(codes(rows, k), codes(n, k), small / 64**2, "same")
    x = normal(rows, k).bfloat16()
    if scheme == "int8_wo":
        return Operands(x, codes(n, k), (small / 64).bfloat16(), scheme)
    packed = torch.from_numpy(rng.integers(0, 256, (n, k // 2)).astype(np.uint8))
    groups = torch.from_numpy(rng.random((n, k // 128)).astype(np.float32) + 0.5) / 4 / k**0.5
    return Operands(x, packed, groups.bfloat16(), scheme)
