# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Plans built with no GPU and on the GPU machine: do they load, run and agree with float32?"""

from __future__ import annotations

import functools
import pathlib
import time

import torch

from benchmarks.gpu.engine import LoadedPlan
from benchmarks.gpu.plan import LOGGER, BuildOptions, build_plan
from benchmarks.gpu.probe.make_plans import FFN, HIDDEN, SMALL
from benchmarks.gpu.reference import TOLERANCE, TORCH_DTYPE, Reference, to_torch
from benchmarks.gpu.segment import Segment, emit, random_segment, segment_inputs
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.timing import median_us

TOKENS = (1, 33, 512)


def profile_of(tokens: int) -> int:
    """The optimisation profile whose range holds `tokens`."""
    return 0 if tokens <= 64 else 1


def bindings(segment: Segment, form: str) -> dict[str, torch.Tensor]:
    """The weight inputs of a plan, on the GPU."""
    if form == "constants":
        return {}
    inputs = segment_inputs(segment)
    return {name: to_torch(array, "cuda") for name, array in inputs.items()}


def check_plan(plan: bytes, segment: Segment, form: str, strategy: str = "EAGER") -> Outcome:
    """Runs the plan at `TOKENS` and compares with the float32 reference."""
    reference = Reference(segment, "cuda")
    weights = bindings(segment, form)
    loaded = [LoadedPlan(plan, profile, strategy) for profile in (0, 1)]
    out: Outcome = {
        "validity": loaded[0].validity,
        "load_ms": loaded[0].load_ms,
        "context_ms": loaded[0].context_ms,
        "messages": LOGGER.take(),
    }
    limit = TOLERANCE[segment.dtype, segment.scheme]
    stream = torch.cuda.Stream()
    for tokens in TOKENS:
        generator = torch.Generator("cuda").manual_seed(tokens)
        x = torch.randn(tokens, segment.hidden, device="cuda", generator=generator)
        x = x.to(TORCH_DTYPE[segment.dtype])
        y = torch.full_like(x, torch.nan)
        plan_ = loaded[profile_of(tokens)].bind(x=x, y=y, **weights)
        stream.wait_stream(torch.cuda.current_stream())
        begin = time.perf_counter()
        plan_.run(stream)
        stream.synchronize()
        first_ms = (time.perf_counter() - begin) * 1e3
        error = reference.relative_error(x, y)
        if not error <= limit:
            raise ArithmeticError(f"{tokens} tokens: relative error {error} > {limit}; {out}")
        with torch.cuda.stream(stream):
            us = median_us(plan_.run, repeats=20)
        out[f"tokens={tokens}"] = {"relative_error": error, "first_ms": first_ms, "us": us}
    return out


def probe_cpu_plans(steps: Steps, folder: pathlib.Path) -> None:
    """Plans built with no GPU."""
    for dtype, scheme, form, capability in SMALL:
        name = f"{dtype}.{scheme}.{form}.{capability or 'unset'}.plan"
        segment = random_segment(HIDDEN, FFN, dtype, scheme)
        plan = (folder / name).read_bytes()
        steps.run(name, functools.partial(check_plan, plan, segment, form))


def build_here(
    segment: Segment, form: str, capability: str | None, flags: tuple[str, ...] = ()
) -> tuple[bytes, float]:
    """The plan and the seconds it took."""
    model = emit(segment, form).SerializeToString()
    begin = time.perf_counter()
    plan = build_plan(model, segment.hidden, BuildOptions(capability, flags))
    return plan, time.perf_counter() - begin


def probe_gpu_plans(steps: Steps, folder: pathlib.Path) -> None:
    """Plans built on the GPU machine, for itself, for every GPU and for others; builder flags."""

    def step(dtype: str, scheme: str, form: str, capability: str | None, *flags: str) -> Outcome:
        segment = random_segment(HIDDEN, FFN, dtype, scheme)
        plan, seconds = build_here(segment, form, capability, flags)
        built = {"build_s": seconds, "plan_bytes": len(plan)}
        return built if "STRIP_PLAN" in flags else built | check_plan(plan, segment, form)

    for capability in ("CURRENT", None, "SM80", "SM89", "SM120"):
        for scheme in ("none", "fp8", "int8"):
            if capability == "SM80" and scheme == "fp8":
                continue  # SM80 has no FP8
            name = f"fp16 {scheme} constants {capability or 'unset'}"
            steps.run(name, functools.partial(step, "fp16", scheme, "constants", capability))
    for scheme in ("none", "fp8", "int8"):
        form = "unit_scale" if scheme == "none" else "pow2_scale"
        name = f"fp16 {scheme} {form} CURRENT"
        steps.run(name, functools.partial(step, "fp16", scheme, form, "CURRENT"))
    for flags in (("REFIT",), ("STRIP_PLAN", "REFIT_IDENTICAL"), ("WEIGHT_STREAMING",)):
        name = f"fp16 none constants CURRENT {'+'.join(flags)}"
        steps.run(name, functools.partial(step, "fp16", "none", "constants", "CURRENT", *flags))
