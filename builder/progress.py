# SPDX-License-Identifier: Apache-2.0
"""What a build tells of how far it is."""

from __future__ import annotations

from collections.abc import Callable

KERNELS, PLANS, WEIGHTS = STAGES = ("kernels", "plans", "weights")

# What a unit of a stage takes until it is measured, in seconds: a kernel of one among two workers,
# a plan, a byte that is read, packed, hashed and written.
UNIT_SECONDS = {KERNELS: 0.8, PLANS: 0.5, WEIGHTS: 1 / 200e6}

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): kernels and plans by number, weights in bytes.

Every stage that a build has is told once before the work begins; what the cache holds counts as
done from the start.
"""


def no_progress(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
