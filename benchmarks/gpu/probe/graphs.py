# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""CUDA graph capture of segments and kernels, the runtime cache, several contexts of a plan."""

from __future__ import annotations

import functools
import json
import pathlib
import time
from typing import Any

import torch

from benchmarks.gpu.engine import LoadedPlan
from benchmarks.gpu.launcher import Kernel
from benchmarks.gpu.probe.make_plans import FFN, HIDDEN
from benchmarks.gpu.probe.plans import build_here
from benchmarks.gpu.reference import TOLERANCE, Reference
from benchmarks.gpu.segment import Segment, random_segment
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.timing import median_us


class Chain:
    """Segment, kernel, segment: y1 = mlp(x); y2 = 2 y1 + 1; y3 = mlp(y2)."""

    def __init__(self, plan: bytes, kernel: Kernel | None, strategy: str) -> None:
        self.kernel = kernel
        self.x = torch.randn(16, HIDDEN, device="cuda").half()
        self.y1, self.y2, self.y3 = (torch.full_like(self.x, torch.nan) for _ in range(3))
        self.first = LoadedPlan(plan, 0, strategy).bind(x=self.x, y=self.y1)
        self.second = LoadedPlan(plan, 0, strategy).bind(x=self.y2, y=self.y3)

    def run(self, stream: Any = None) -> None:
        """Enqueues the chain (the first segment alone without a kernel)."""
        stream = stream or torch.cuda.current_stream()
        self.first.run(stream)
        if self.kernel is not None:
            num = self.x.numel()
            self.kernel.launch(stream, -(-num // 1024), self.y1, self.y2, num)
            self.second.run(stream)

    def error(self, reference: Reference) -> float:
        """Relative error of the last output against float32."""
        if self.kernel is None:
            return reference.relative_error(self.x, self.y1)
        middle = (self.x.float() + reference.mlp(self.x)).half() * 2 + 1
        return reference.relative_error(middle, self.y3)


def capture(
    plan: bytes, segment: Segment, kernel: tuple[bytes, dict[str, Any]] | None, strategy: str
) -> Outcome:
    """Captures the chain into one CUDA graph, replays it on fresh input and compares."""
    chain = Chain(plan, Kernel(*kernel) if kernel else None, strategy)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            chain.run(stream)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        chain.run(torch.cuda.current_stream())
    chain.x.copy_(torch.randn_like(chain.x))
    chain.y1.fill_(torch.nan)
    chain.y3.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    error = chain.error(Reference(segment, "cuda"))
    # Differences of the first segment's rounding pass through the second one.
    limit = TOLERANCE[segment.dtype, segment.scheme] * (2 if kernel else 1)
    if not error <= limit:
        raise ArithmeticError(f"replay: relative error {error} > {limit}")
    with torch.cuda.stream(stream):  # TensorRT synchronises on the default stream
        eager_us, graph_us = median_us(chain.run), median_us(graph.replay)
    begin = time.perf_counter()
    for _ in range(50):
        chain.run(stream)
    host_us = (time.perf_counter() - begin) * 1e6 / 50
    stream.synchronize()
    return {
        "relative_error": error,
        "eager_us": eager_us,
        "eager_host_us": host_us,
        "graph_us": graph_us,
    }


def cold_and_warm(plan: bytes) -> Outcome:
    """Time to create a context with an empty runtime cache and with the cache of the first."""
    cold = LoadedPlan(plan)
    x = torch.randn(16, HIDDEN, device="cuda").half()
    cold.bind(x=x, y=torch.empty_like(x)).run()
    torch.cuda.synchronize()
    blob = bytes(cold.cache.serialize())
    warm = LoadedPlan(plan, cache=blob)
    return {
        "cold_ms": cold.context_ms,
        "warm_ms": warm.context_ms,
        "load_ms": cold.load_ms,
        "cache_bytes": len(blob),
    }


def more_contexts(plan: bytes) -> Outcome:
    """Four more contexts of one plan, as layers that share it would need at most."""
    base = LoadedPlan(plan)
    torch.cuda.synchronize()
    free, begin = torch.cuda.mem_get_info()[0], time.perf_counter()
    contexts = [base.engine.create_execution_context(base.config) for _ in range(4)]
    seconds = time.perf_counter() - begin
    assert all(contexts)
    used = free - torch.cuda.mem_get_info()[0]
    return {"first_ms": base.context_ms, "four_more_ms": seconds * 1e3, "device_bytes": used}


def probe_graphs(steps: Steps, folder: pathlib.Path) -> None:
    """Graph capture, runtime cache and context sharing, on CPU-built and GPU-built plans."""
    segment = random_segment(HIDDEN, FFN, "fp16", "none")
    plans = {"cpu": (folder / "plans/fp16.none.constants.unset.plan").read_bytes()}
    try:
        plans["gpu"] = build_here(segment, "constants", "CURRENT")[0]
    except Exception as error:
        print("no GPU-built plan:", error)
    launch = json.loads((folder / "kernels/kernels.json").read_text())["axpy"]
    image = (folder / "kernels/axpy.cubin").read_bytes()
    for source, plan in plans.items():
        steps.run(f"{source}-built: runtime cache", functools.partial(cold_and_warm, plan))
        for strategy in ("EAGER", "LAZY", "NONE"):
            one = functools.partial(capture, plan, segment, None, strategy)
            steps.run(f"{source}-built: capture, specialisation {strategy}", one)
        three = functools.partial(capture, plan, segment, (image, launch), "EAGER")
        steps.run(f"{source}-built: segment, kernel, segment in one graph", three)
        steps.run(f"{source}-built: four more contexts", functools.partial(more_contexts, plan))
