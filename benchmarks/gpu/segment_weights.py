# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Weights as plan inputs against weights as constants: speed of one MLP segment on the GPU.

    python -m benchmarks.gpu.segment_weights [PLANS]

Hidden 4096, ffn 14336, float16 activations; unquantised, FP8 and INT8 (W8A8). Each plan is
checked against a float32 reference at every size before it is timed, and torch's float16 is timed
beside it. PLANS is a folder of full.*.plan files built with no GPU (probe/make_plans.py); every
form is also built here, for this GPU. Outcomes go to $OUT/outcomes.jsonl.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time

import torch

from benchmarks.gpu.engine import LoadedPlan
from benchmarks.gpu.plan import LOGGER, BuildOptions, build_plan
from benchmarks.gpu.reference import TOLERANCE, PlainTorch, Reference, to_torch
from benchmarks.gpu.segment import (
    Segment,
    emit,
    placeholder_segment,
    random_segment,
    segment_inputs,
)
from benchmarks.gpu.steps import Outcome, Steps
from benchmarks.gpu.timing import median_us

HIDDEN, FFN = 4096, 14336
TOKENS = (1, 16, 64, 256, 2048)
SCHEMES = {
    "none": ("constants", "unit_scale"),
    "fp8": ("constants", "pow2_scale", "unit_scale"),
    "int8": ("constants", "pow2_scale", "unit_scale"),
}


def measure(plan: bytes, segment: Segment, form: str, reference: Reference) -> Outcome:
    """Checks, then times the plan at every size of `TOKENS`.

    Raises:
        ArithmeticError: a size differs from the reference by more than its tolerance.
    """
    weights = {}
    if form != "constants":
        inputs = segment_inputs(segment)
        weights = {name: to_torch(array, "cuda") for name, array in inputs.items()}
    free = torch.cuda.mem_get_info()[0]
    loaded = [LoadedPlan(plan, profile) for profile in (0, 1)]
    out: Outcome = {
        "plan_bytes": len(plan),
        "load_ms": loaded[0].load_ms,
        "context_ms": loaded[0].context_ms,
        "device_bytes_of_both_profiles": free - torch.cuda.mem_get_info()[0],
        "messages": LOGGER.take(),
    }
    limit = TOLERANCE[segment.dtype, segment.scheme]
    stream = torch.cuda.Stream()
    for tokens in TOKENS:
        x = torch.randn(tokens, HIDDEN, device="cuda").half()
        y = torch.full_like(x, torch.nan)
        bound = loaded[0 if tokens <= 64 else 1].bind(x=x, y=y, **weights)
        stream.wait_stream(torch.cuda.current_stream())
        bound.run(stream)
        stream.synchronize()
        error = reference.relative_error(x, y)
        if not error <= limit:
            raise ArithmeticError(f"{tokens} tokens: relative error {error} > {limit}; {out}")
        with torch.cuda.stream(stream):
            out[f"tokens={tokens}"] = {"us": median_us(bound.run), "relative_error": error}
    return out


def measure_torch(segment: Segment) -> Outcome:
    """Times torch's float16 segment at every size."""
    plain, out = PlainTorch(segment, "cuda"), {}
    for tokens in TOKENS:
        x = torch.randn(tokens, HIDDEN, device="cuda").half()
        out[f"tokens={tokens}"] = {"us": median_us(functools.partial(plain, x))}
    return out


def build_and_measure(segment: Segment, form: str, reference: Reference) -> Outcome:
    """Builds the plan on this machine for this GPU, then measures it."""
    source = segment
    if form != "constants":
        source = placeholder_segment(HIDDEN, FFN, segment.dtype, segment.scheme)
    model = emit(source, form).SerializeToString()
    begin = time.perf_counter()
    plan = build_plan(model, HIDDEN, BuildOptions(compute_capability="CURRENT"))
    seconds = time.perf_counter() - begin
    return {"build_s": seconds} | measure(plan, segment, form, reference)


def main(plans: pathlib.Path | None) -> None:
    """Measures every scheme and form, then prints one table."""
    steps = Steps("segment_weights")
    for scheme, forms in SCHEMES.items():
        segment = random_segment(HIDDEN, FFN, "fp16", scheme)
        reference = Reference(segment, "cuda")
        if scheme == "none":
            steps.run("torch fp16", functools.partial(measure_torch, segment))
        for form in forms:
            step = functools.partial(build_and_measure, segment, form, reference)
            steps.run(f"{scheme} {form} built here", step)
            file = plans / f"full.fp16.{scheme}.{form}.plan" if plans else None
            if file is not None and file.exists():
                step = functools.partial(measure, file.read_bytes(), segment, form, reference)
                steps.run(f"{scheme} {form} built with no GPU", step)
        del reference
        torch.cuda.empty_cache()
    print(f"{'microseconds at tokens =':40}" + "".join(f"{t:>10}" for t in TOKENS))
    for outcome in steps.outcomes:
        if outcome["ok"]:
            times = "".join(f"{outcome[f'tokens={t}']['us']:10.1f}" for t in TOKENS)
            print(f"{outcome['step']:40}{times}")
    steps.summary()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
