# SPDX-License-Identifier: Apache-2.0
"""What a build tells of how far it is."""

from __future__ import annotations

from collections.abc import Callable

KERNELS, PLANS, WEIGHTS = STAGES = ("kernels", "plans", "weights")

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): kernels and plans by number, weights in bytes.

Every stage that a build has is told once before the work begins; what the cache holds counts as
done from the start.
"""


def no_progress(stage: str, done: int, total: int) -> None:
    """Shows nothing."""
