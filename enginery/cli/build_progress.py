# SPDX-License-Identifier: Apache-2.0
"""Progress of a build over all its stages, with one estimate of the time left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TextIO

from enginery.builder.progress import KERNELS, PLANS, UNIT_SECONDS, WEIGHTS
from enginery.cli.progress import Progress, megabytes

VERBS = {KERNELS: "compiling kernels", PLANS: "building plans", WEIGHTS: "packing weights"}


@dataclass
class Stage:
    """How far a stage is.

    Attributes:
        begun: units that were done before it began, from the cache.
        done: units done, those included.
        total: units in all.
        seconds: time that its units took so far.
    """

    begun: int
    done: int
    total: int
    seconds: float = 0.0


class BuildProgress(Progress):
    """A bar over kernels, plans and weights; call it as `enginery.builder.progress.Progress`.

    Args:
        stream: where to; a bar is drawn when it is a terminal.
        is_silent: show nothing.
    """

    def __init__(self, stream: TextIO, *, is_silent: bool = False) -> None:
        super().__init__(stream, is_silent=is_silent)
        self._stages: dict[str, Stage] = {}
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Tells that `done` of `total` units of a stage are done."""
        now = time.monotonic()
        if stage not in self._stages:
            self._stages[stage] = Stage(done, done, total)
        state = self._stages[stage]
        if done > state.done:
            state.done = done
            state.seconds += now - self._last
        self._last = now
        spent, left = self._seconds()
        count = megabytes(done, total) if stage == WEIGHTS else f"{done} of {total}"
        verb = VERBS[stage]
        share = spent / (spent + left) if spent + left else 1.0
        self.show(verb, share, f"{count}, {left:.0f} s left")

    def _seconds(self) -> tuple[float, float]:
        """Time that what is done would take without the cache, and what is left takes."""
        spent = left = 0.0
        for name, stage in self._stages.items():
            made = stage.done - stage.begun
            unit = stage.seconds / made if made else UNIT_SECONDS[name]
            spent += unit * stage.done
            left += unit * (stage.total - stage.done)
        return spent, left
