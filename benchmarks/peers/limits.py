# SPDX-License-Identifier: Apache-2.0
"""What the machine does at most, with each set of instructions that it has."""

from __future__ import annotations

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.profile import measure_limits

ISAS = ("amx", "avx512", "avx2")


def limits_of_machine(num_threads: int) -> dict[str, float]:
    """Memory bandwidth in GB/s, and operations in 1e9 per second by their kind and instructions.

    By the loops of `enginery bench --profile`, which no kernel and no peer takes part in.
    """
    limits: dict[str, float] = {}
    for isa in ISAS:
        try:
            measured = measure_limits(isa, num_threads)
        except InvalidArgumentError:
            continue  # this machine lacks it
        bandwidth = measured.memory_bandwidth / 1e9
        limits["bandwidth_gb_s"] = max(bandwidth, limits.get("bandwidth_gb_s", 0.0))
        for kind, unit in (("float32", "f32"), ("bf16", "bf16"), ("int8", "i8")):
            limits[f"{kind}_{isa}_gops"] = measured.peak(unit) / 1e9
    return limits
