# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import gemm_swiglu
from tests.plugins.kernels import linear_operands

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("rows,f,k", [(1, 32, 128), (17, 48, 256)])
@pytest.mark.parametrize("scheme", linear_operands.SCHEMES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_schemes(scheme: str, rows: int, f: int, k: int, with_bias: bool) -> None:
    operands = linear_operands.make(scheme, rows, 2 * f, k)
    bias = inverse = out_kind = None
    if with_bias:
        bias = np.random.default_rng(3).standard_normal(2 * f, np.float32)
    out = torch.bfloat16
    if scheme in ("fp8", "int8"):
        out_kind, inverse, out = scheme, np.array([30.0], np.float32), operands.x.dtype
    y = torch.zeros((rows, f), dtype=out)
    block_m, block_n, block_k = 16, 32, 128 if scheme == "int4_wo" else 64
    spec.load("gemm_swiglu")[(-(-rows // block_m) * -(-f // block_n),)](
        operands.x, operands.weight, operands.scale,
        None if bias is None else torch.from_numpy(bias),
        None if inverse is None else torch.from_numpy(inverse),
        y, rows, F=f, K=k, WEIGHT=operands.kind, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        GROUP_M=2, INTERPRET=True,
    )  # fmt: skip
    expected = gemm_swiglu(
        *operands.reference(), bias, inverse, kind=operands.kind, out_kind=out_kind
    )
    result = y.float().numpy()
    if out_kind is None:
        assert np.abs(result - expected).max() <= 2**-8 * np.abs(expected).max()
        return
    # A value within float32's rounding of a midpoint may fall to either side of it.
    assert np.mean(result != expected) < 0.01
    spacing = np.maximum(np.abs(expected), 2**-6) * 2**-3 if scheme == "fp8" else 1.0
    assert (np.abs(result - expected) <= spacing * 1.001).all()
