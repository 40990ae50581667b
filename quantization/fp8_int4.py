# SPDX-License-Identifier: Apache-2.0
"""INT4 weights for units that multiply FP8: real = E4M3(q * scale of the group) * scale of the row.

The arithmetic of ModelOpt's W4A8_AWQ, whose row scale is one of the whole weight, its largest
magnitude / 448: `weight_scale_2` of a checkpoint, and that of a group `weight_scale` divided by it.
Kernels for GPUs make the same FP8 values of the codes before they multiply.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from enginery.quantization.fp8 import e4m3_to_float32, float32_to_e4m3


class Fp8Int4Weight(NamedTuple):
    """Quantised rows of a weight `[N, K]`, in groups of K / groups inputs.

    Attributes:
        q: int8 `[N, K]`, in -8..7.
        group_scale: float32 `[N, groups]`, finite.
        scale: float32 `[N]`.
    """

    q: npt.NDArray[np.int8]
    group_scale: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]


def dequantize_fp8_int4(weight: Fp8Int4Weight) -> npt.NDArray[np.float32]:
    """Returns float32 `[N, K]`, the values that the quantised rows stand for."""
    size = weight.q.shape[1] // weight.group_scale.shape[1]
    values = weight.q.astype(np.float32) * np.repeat(weight.group_scale, size, axis=1)
    return e4m3_to_float32(float32_to_e4m3(values)) * weight.scale[:, np.newaxis]
