# SPDX-License-Identifier: Apache-2.0
"""Builds the plans the probe carries; needs no GPU.

python -m benchmarks.gpu.probe.make_plans OUT
"""

from __future__ import annotations

import pathlib
import sys

from benchmarks.gpu.segment import emit, placeholder_segment, random_segment

HIDDEN, FFN = 128, 256  # small, so that plans with constants can travel
FULL_HIDDEN, FULL_FFN = 4096, 14336

# dtype, scheme, form, compute capability
SMALL = [
    ("fp16", "none", "constants", None),
    ("fp16", "none", "constants", "SM89"),
    ("fp16", "none", "constants", "SM80"),
    ("fp16", "fp8", "constants", None),
    ("fp16", "int8", "constants", None),
    ("fp16", "int8_wo", "constants", None),
    ("fp16", "int4_wo", "constants", None),
    ("bf16", "none", "constants", None),
    ("bf16", "fp8", "constants", None),
    ("fp16", "none", "unit_scale", None),
    ("fp16", "fp8", "pow2_scale", None),
    ("fp16", "int8", "pow2_scale", None),
]
FULL = [
    ("fp16", "none", "unit_scale"),
    ("fp16", "fp8", "unit_scale"),
    ("fp16", "fp8", "pow2_scale"),
    ("fp16", "int8", "unit_scale"),
    ("fp16", "int8", "pow2_scale"),
]


def main(out: pathlib.Path) -> None:
    """Writes <dtype>.<scheme>.<form>.<capability>.plan, and full.* at the real shape."""
    from benchmarks.gpu.plan import (  # not where plans are only read
        BuildOptions,
        build_plan,
        gemm_operands,
    )

    out.mkdir(parents=True, exist_ok=True)
    for dtype, scheme, form, capability in SMALL:
        segment = random_segment(HIDDEN, FFN, dtype, scheme)
        model = emit(segment, form).SerializeToString()
        plan = build_plan(model, HIDDEN, BuildOptions(compute_capability=capability))
        (out / f"{dtype}.{scheme}.{form}.{capability or 'unset'}.plan").write_bytes(plan)
        print(dtype, scheme, form, capability or "unset", len(plan), gemm_operands(plan))
    for dtype, scheme, form in FULL:
        segment = placeholder_segment(FULL_HIDDEN, FULL_FFN, dtype, scheme)
        plan = build_plan(emit(segment, form).SerializeToString(), FULL_HIDDEN)
        (out / f"full.{dtype}.{scheme}.{form}.plan").write_bytes(plan)
        print("full", dtype, scheme, form, len(plan), gemm_operands(plan))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
