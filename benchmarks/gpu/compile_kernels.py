# SPDX-License-Identifier: Apache-2.0
"""Compiles kernels.py to cubins with no GPU.

    python -m benchmarks.gpu.compile_kernels OUT [compute capability, default 90]

writes OUT/<name>.cubin and OUT/kernels.json (launch data), and for `axpy` also the PTX, once of
the compiler's default version and once capped at 9.0, which is what a CUDA 13.0 driver takes.
"""

from __future__ import annotations

import json
import pathlib
import re
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.gpu import kernels

HIDDEN, FFN = 4096, 14336
DTYPES = {"fp16": "fp16", "fp8": "fp8e4nv", "int8": "i8"}
# Rows, columns, depth in bytes, warps, stages.
TILES = {
    "t16x32": (16, 32, 512, 4, 4),
    "t32x64": (32, 64, 256, 4, 4),
    "t64x64": (64, 64, 256, 4, 4),
    "t64x128": (64, 128, 128, 4, 4),
    "t128x128": (128, 128, 128, 8, 4),
    "t128x256": (128, 256, 128, 8, 3),
}
SWIGLU_BLOCK = 2048


class Compiler:
    """Compiles for one compute capability and keeps the launch data of each cubin."""

    def __init__(self, out: pathlib.Path, capability: int) -> None:
        self.out, self.target = out, GPUTarget("cuda", capability, 32)
        self.index: dict[str, dict[str, Any]] = {}

    def compile(
        self, function: Any, types: dict[str, str], constants: dict[str, Any], **options: int
    ) -> Any:
        """The compiled kernel; pointers are taken to be 16-byte aligned."""
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, kind in enumerate(types.values())
            if kind.startswith("*")
        }
        source = ASTSource(
            fn=function,
            signature=types | dict.fromkeys(constants, "constexpr"),
            constexprs=constants,
            attrs=aligned,
        )
        return triton.compile(source, target=self.target, options=options)

    def save(self, name: str, kernel: Any, **extra: Any) -> None:
        """Writes the cubin and notes how it is launched."""
        ptx = kernel.asm["ptx"]
        entry = re.search(r"\.entry[^)]*\)", ptx, re.S)
        assert entry is not None
        self.index[name] = {
            "entry": kernel.metadata.name,
            "num_warps": kernel.metadata.num_warps,
            "shared_bytes": kernel.metadata.shared,
            "num_params": entry.group(0).count(".param"),
            "matrix_instructions": sorted(set(re.findall(r"wgmma\.mma|mma\.sync", ptx))),
        } | extra
        (self.out / f"{name}.cubin").write_bytes(kernel.asm["cubin"])

    def axpy(self) -> None:
        """`axpy` as cubin and as two versions of PTX."""
        types, constants = {"x": "*fp16", "y": "*fp16", "n": "i32"}, {"BLOCK": 1024}
        default = self.compile(kernels.axpy, types, constants)
        capped = self.compile(kernels.axpy, types, constants, ptx_version=90)
        self.save("axpy", default)
        (self.out / "axpy_default.ptx").write_text(default.asm["ptx"])
        (self.out / "axpy_isa90.ptx").write_text(capped.asm["ptx"])

    def row_kernels(self, dtype: str) -> None:
        """`rms_norm` and `swiglu` that store `dtype`."""
        out = f"*{DTYPES[dtype]}"
        types = {"x": "*fp16", "gamma": "*fp16", "inverse": "*fp32", "out": out}
        constants: dict[str, Any] = {"KIND": dtype, "HIDDEN": HIDDEN}
        self.save(f"rms_norm_{dtype}", self.compile(kernels.rms_norm, types, constants))
        types = {"gate_up": "*fp16", "inverse": "*fp32", "out": out}
        constants = {"KIND": dtype, "FFN": FFN, "BLOCK": SWIGLU_BLOCK}
        self.save(f"swiglu_{dtype}", self.compile(kernels.swiglu, types, constants))

    def gemm(self, layer: str, dtype: str, tile: str) -> None:
        """`gemm` of "gate_up" or "down" (which adds the residual)."""
        k, n = (HIDDEN, 2 * FFN) if layer == "gate_up" else (FFN, HIDDEN)
        bm, bn, depth_bytes, warps, stages = TILES[tile]
        kind = f"*{DTYPES[dtype]}"
        types = {
            "x": kind, "w": kind, "scale": "*fp32", "residual": "*fp16", "y": "*fp16", "m": "i32",
        }  # fmt: skip
        constants = {
            "RESIDUAL": layer == "down", "K": k, "N": n,
            "ACC": tl.int32 if dtype == "int8" else tl.float32,
            "BM": bm, "BN": bn, "BK": depth_bytes // (2 if dtype == "fp16" else 1),
        }  # fmt: skip
        options = {"num_warps": warps, "num_stages": stages}
        kernel = self.compile(kernels.gemm, types, constants, **options)
        self.save(f"gemm_{layer}_{dtype}_{tile}", kernel, k=k, n=n, rows=bm, columns=bn)


def main(out: pathlib.Path, capability: int) -> None:
    """Writes every cubin and kernels.json into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    compiler = Compiler(out, capability)
    compiler.axpy()
    for dtype in DTYPES:
        compiler.row_kernels(dtype)
        for tile in TILES:
            compiler.gemm("gate_up", dtype, tile)
            compiler.gemm("down", dtype, tile)
    (out / "kernels.json").write_text(json.dumps(compiler.index, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 90)
