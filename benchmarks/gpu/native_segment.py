# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""One MLP segment as four ahead-of-time cubins, eager and as one CUDA graph, beside torch.

    python -m benchmarks.gpu.native_segment KERNELS

KERNELS is what compile_kernels.py wrote on a machine with no GPU. For every scheme and number of
tokens each GEMM tile is checked and timed, the fastest is taken, and the segment made of them is
checked against float32 and timed. Outcomes go to $OUT/outcomes.jsonl.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.launcher import Kernel
from benchmarks.gpu.reference import TOLERANCE, PlainTorch, Reference, to_torch
from benchmarks.gpu.segment import Linear, Segment, random_segment
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.timing import median_us

HIDDEN, FFN = 4096, 14336
TOKENS = (1, 16, 64, 256, 2048)
SWIGLU_BLOCK = 2048
SCHEMES = {"none": "fp16", "fp8": "fp8", "int8": "int8"}
STORED = {"fp16": torch.float16, "fp8": torch.float8_e4m3fn, "int8": torch.int8}
GEMM_TOLERANCE = 1e-2  # FP8 tensor cores add with fewer bits than float32


class NativeLinear:
    """One layer's weight on the GPU and the GEMM tiles that may run it."""

    def __init__(self, folder: pathlib.Path, name: str, dtype: str, linear: Linear) -> None:
        index = json.loads((folder / "kernels.json").read_text())
        self.tiles: dict[str, tuple[Kernel, dict[str, Any]]] = {}
        prefix = f"gemm_{name}_{dtype}_"
        for key, launch in index.items():
            if key.startswith(prefix):
                image = (folder / f"{key}.cubin").read_bytes()
                self.tiles[key.removeprefix(prefix)] = (Kernel(image, launch), launch)
        self.weight = to_torch(linear.codes, "cuda")
        if dtype == "fp8":
            self.weight = self.weight.view(torch.float8_e4m3fn)
        self.inverse = torch.ones(1, device="cuda")
        self.scale = torch.ones(linear.codes.shape[0], device="cuda")
        if linear.weight_scale is not None and linear.input_scale is not None:
            self.inverse /= linear.input_scale
            self.scale = to_torch(linear.weight_scale, "cuda") * linear.input_scale

    def launch(self, tile: str, x: torch.Tensor, residual: torch.Tensor, y: torch.Tensor) -> None:
        """Y = (x @ weight.T) * scale, plus the residual where the kernel was built to add it."""
        kernel, data = self.tiles[tile]
        m = x.shape[0]
        grid = -(-m // data["rows"]) * (data["n"] // data["columns"])
        stream = torch.cuda.current_stream()
        kernel.launch(stream, grid, x, self.weight, self.scale, residual, y, m)

    def fastest(self, x: torch.Tensor, residual: torch.Tensor | None) -> tuple[str, Outcome]:
        """Checks and times every tile on `x`; returns the fastest and all times.

        Raises:
            ArithmeticError: a tile's result is wrong.
        """
        y = torch.empty(x.shape[0], self.weight.shape[0], device="cuda", dtype=torch.float16)
        expected = x.float() @ self.weight.float().T * self.scale
        if residual is not None:
            expected += residual.float()
        times: Outcome = {}
        flush = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
        for tile in self.tiles:
            y.fill_(torch.nan)
            run = functools.partial(self.launch, tile, x, y if residual is None else residual, y)
            run()
            error = float((y.float() - expected).norm() / expected.norm())
            if not error <= GEMM_TOLERANCE:
                raise ArithmeticError(f"{tile}: relative error {error}")
            # The weights do not stay in L2 between two runs of a whole model.
            times[tile] = median_us(run, repeats=15, warmup=2, before=lambda: flush.fill_(1))
        return min(times, key=lambda tile: times[tile]), times


class NativeSegment:
    """RMSNorm, gate+up, SwiGLU, down with residual: four launches on one stream."""

    def __init__(self, folder: pathlib.Path, segment: Segment) -> None:
        self.dtype = SCHEMES[segment.scheme]
        index = json.loads((folder / "kernels.json").read_text())

        def load(name: str) -> Kernel:
            return Kernel((folder / f"{name}.cubin").read_bytes(), index[name])

        self.rms_norm, self.swiglu = load(f"rms_norm_{self.dtype}"), load(f"swiglu_{self.dtype}")
        self.gamma = to_torch(segment.gamma, "cuda")
        self.gate_up = NativeLinear(folder, "gate_up", self.dtype, segment.gate_up)
        self.down = NativeLinear(folder, "down", self.dtype, segment.down)

    def prepare(self, tokens: int) -> Outcome:
        """Allocates buffers for `tokens`, fills the input and picks the tiles."""
        make = functools.partial(torch.empty, device="cuda")
        self.x = torch.randn(tokens, HIDDEN, device="cuda").half()
        self.normed = make(tokens, HIDDEN, dtype=STORED[self.dtype])
        self.both = make(tokens, 2 * FFN, dtype=torch.float16)
        self.gated = make(tokens, FFN, dtype=STORED[self.dtype])
        self.y = torch.full_like(self.x, torch.nan)
        self.tiles = (next(iter(self.gate_up.tiles)), next(iter(self.down.tiles)))
        self.run()
        first, first_times = self.gate_up.fastest(self.normed, None)
        second, second_times = self.down.fastest(self.gated, self.x)
        self.tiles = (first, second)
        return {
            "tiles": self.tiles,
            "gate_up_us_by_tile": first_times,
            "down_us_by_tile": second_times,
        }

    def run(self) -> None:
        """Enqueues the four kernels on the current stream."""
        stream, tokens = torch.cuda.current_stream(), self.x.shape[0]
        self.rms_norm.launch(stream, tokens, self.x, self.gamma, self.gate_up.inverse, self.normed)
        self.gate_up.launch(self.tiles[0], self.normed, self.both, self.both)
        grid = tokens * (FFN // SWIGLU_BLOCK)
        self.swiglu.launch(stream, grid, self.both, self.down.inverse, self.gated)
        self.down.launch(self.tiles[1], self.gated, self.x, self.y)


def captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """`run` as a CUDA graph, warmed up first."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph


def measure_native(folder: pathlib.Path, segment: Segment) -> Outcome:
    """Checks the graph's replay on fresh input against float32 and times it, at every size."""
    native, reference = NativeSegment(folder, segment), Reference(segment, "cuda")
    out: Outcome = {}
    for tokens in TOKENS:
        row = native.prepare(tokens)
        graph = captured(native.run)
        native.x.copy_(torch.randn_like(native.x))
        native.y.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        error = reference.relative_error(native.x, native.y)
        if not error <= TOLERANCE["fp16", segment.scheme]:
            raise ArithmeticError(f"{tokens} tokens: relative error {error}")
        times = {"relative_error": error, "eager_us": median_us(native.run)}
        out[f"tokens={tokens}"] = times | {"us": median_us(graph.replay)} | row
    return out


def measure_torch(segment: Segment) -> Outcome:
    """Torch's float16 segment as a CUDA graph."""
    plain, out = PlainTorch(segment, "cuda"), {}
    for tokens in TOKENS:
        x = torch.randn(tokens, HIDDEN, device="cuda").half()
        run = functools.partial(plain, x)
        eager = median_us(run)
        out[f"tokens={tokens}"] = {"eager_us": eager, "us": median_us(captured(run).replay)}
    return out


def main(folder: pathlib.Path) -> None:
    """Measures every scheme and torch, then prints one table."""
    steps = Steps("native_segment")
    for scheme in SCHEMES:
        segment = random_segment(HIDDEN, FFN, "fp16", scheme)
        if scheme == "none":
            steps.run("torch fp16", functools.partial(measure_torch, segment))
        steps.run(f"native {scheme}", functools.partial(measure_native, folder, segment))
        torch.cuda.empty_cache()
    print(f"{'graph replay, microseconds at tokens =':40}" + "".join(f"{t:>10}" for t in TOKENS))
    for outcome in (o for o in steps.outcomes if o["ok"]):
        times = "".join(f"{outcome[f'tokens={t}']['us']:10.1f}" for t in TOKENS)
        print(f"{outcome['step']:40}{times}")
    steps.summary()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
