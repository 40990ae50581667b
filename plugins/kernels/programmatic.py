# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-defs, allow-untyped-decorators
"""Programmatic dependent launch: a kernel is brought onto the GPU while the one before it ends.

A decode step is hundreds of short kernels, and without it each waits idle for the one before it to
be gone. The device must ask for it at the launch; a kernel launched otherwise runs as ever.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import cuda_capability_geq

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def wait_for_previous():
    """Lets the next kernel come, then waits until all that earlier ones wrote is there.

    Every program of every kernel calls it before it reads or writes memory, also one that has
    nothing to do: a kernel is over only when the one before it was, so the next one, which waits
    for this kernel alone, finds the results of all.
    """
    if not INTERPRETED:  # noqa: SIM102 - decided before a GPU is asked for
        if cuda_capability_geq(9, 0):
            gdc_launch_dependents()
            gdc_wait()
