# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Two Triton-language kernels and their ahead-of-time compilation, which needs no GPU.

    python -m benchmarks.gpu.kernels OUT [compute capability, default 90]

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

# name -> (Triton-language dtype, accumulator is integer)
DTYPES = {"fp16": "fp16", "fp8": "fp8e4nv", "int8": "i8"}
# Tile sizes (rows, columns, depth in bytes), warps, stages.
TILES = {"decode": (16, 32, 512, 4, 4), "prefill": (128, 256, 128, 8, 3)}


@triton.jit
def axpy(x, y, n, BLOCK: tl.constexpr):
    """y[i] = 2 * x[i] + 1."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    tl.store(y + i, tl.load(x + i, mask=mask) * 2 + 1, mask=mask)


@triton.jit
def gemm(
    x, w, scale, y, m,
    K: tl.constexpr, N: tl.constexpr, ACC: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y[m, N] = (x[m, K] @ w[N, K].T) * scale[N], float16 out; N and K are multiples of BN, BK."""
    rows_total = tl.cdiv(m, BM)
    # Neighbouring programs share a block of w: it is read from L2, not from memory.
    pid = tl.program_id(0)
    rows = (pid % rows_total) * BM + tl.arange(0, BM)
    cols = (pid // rows_total) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    row_mask = rows[:, None] < m
    x_tile = x + rows[:, None] * K + depth[None, :]
    w_tile = w + cols[None, :] * K + depth[:, None]
    acc = tl.zeros((BM, BN), dtype=ACC)
    for _ in range(0, K, BK):
        acc = tl.dot(tl.load(x_tile, mask=row_mask, other=0.0), tl.load(w_tile), acc, out_dtype=ACC)
        x_tile += BK
        w_tile += BK
    out = acc.to(tl.float32) * tl.load(scale + cols)[None, :]
    tl.store(y + rows[:, None] * N + cols[None, :], out.to(tl.float16), mask=row_mask)


def _launch_data(kernel: Any) -> dict[str, Any]:
    entry = re.search(r"\.entry[^)]*\)", kernel.asm["ptx"], re.S)
    assert entry is not None
    return {
        "entry": kernel.metadata.name,
        "num_warps": kernel.metadata.num_warps,
        "shared_bytes": kernel.metadata.shared,
        "num_params": entry.group(0).count(".param"),
    }


def compile_all(out: pathlib.Path, capability: int) -> None:
    """Writes every cubin and kernels.json into `out`."""
    target = GPUTarget("cuda", capability, 32)
    index: dict[str, Any] = {}
    source = ASTSource(
        fn=axpy,
        signature={"x": "*fp16", "y": "*fp16", "n": "i32", "BLOCK": "constexpr"},
        constexprs={"BLOCK": 1024},
    )
    default = triton.compile(source, target=target)
    capped = triton.compile(source, target=target, options={"ptx_version": 90})
    (out / "axpy.cubin").write_bytes(default.asm["cubin"])
    (out / "axpy_default.ptx").write_text(default.asm["ptx"])
    (out / "axpy_isa90.ptx").write_text(capped.asm["ptx"])
    index["axpy"] = _launch_data(default)
    for dtype, kind in DTYPES.items():
        for tile, (bm, bn, depth_bytes, warps, stages) in TILES.items():
            bk = depth_bytes // (2 if dtype == "fp16" else 1)
            for k, n in ((4096, 28672), (14336, 4096)):
                constants = {
                    "K": k, "N": n, "ACC": tl.int32 if dtype == "int8" else tl.float32,
                    "BM": bm, "BN": bn, "BK": bk,
                }  # fmt: skip
                signature = {
                    "x": f"*{kind}", "w": f"*{kind}", "scale": "*fp32", "y": "*fp16", "m": "i32",
                } | dict.fromkeys(constants, "constexpr")  # fmt: skip
                aligned = {(i,): [["tt.divisibility", 16]] for i in range(4)}
                kernel = triton.compile(
                    ASTSource(fn=gemm, signature=signature, constexprs=constants, attrs=aligned),
                    target=target,
                    options={"num_warps": warps, "num_stages": stages},
                )
                name = f"gemm_{dtype}_{tile}_{k}x{n}"
                (out / f"{name}.cubin").write_bytes(kernel.asm["cubin"])
                ptx = kernel.asm["ptx"]
                index[name] = _launch_data(kernel) | {
                    "tile": [bm, bn, bk],
                    "matrix_instructions": sorted(set(re.findall(r"(wgmma\.mma|mma\.sync)", ptx))),
                }
    (out / "kernels.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    compile_all(folder, int(sys.argv[2]) if len(sys.argv) > 2 else 90)
