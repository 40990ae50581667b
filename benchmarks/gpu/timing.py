# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Medians of CUDA-event times."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def median_us(
    run: Callable[[], object],
    repeats: int = 40,
    warmup: int = 8,
    before: Callable[[], object] | None = None,
) -> float:
    """Median microseconds of `run()` on the current stream.

    All repeats are queued before the first is waited for, behind a delay that covers the host's
    launches, so that the time between two events is the device's and not the host's. `before`
    is queued ahead of each repeat, outside its time.
    """
    for _ in range(warmup):
        run()
    torch.cuda.synchronize()
    pairs = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(repeats)
    ]
    torch.cuda._sleep(20_000_000)  # about 10 ms of device cycles
    for start, end in pairs:
        if before is not None:
            before()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(end) * 1e3 for start, end in pairs))
