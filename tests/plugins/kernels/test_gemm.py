# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import gemm
from tests.plugins.kernels import linear_operands

torch = pytest.importorskip("torch")


def run(
    operands: linear_operands.Operands, n: int, k: int, out: str = "float32", **more: object
) -> npt.NDArray[np.float32]:
    rows = len(operands.x)
    block_m, block_n, block_k = 16, 32, 128 if operands.kind == "int4_wo" else 64
    y = torch.full((rows, n), float("nan"), dtype=getattr(torch, out))
    grid = -(-rows // block_m) * -(-n // block_n)
    spec.load("gemm")[(grid,)](
        operands.x, operands.weight, operands.scale, more.get("bias"), more.get("residual"), y,
        rows, N=n, K=k, WEIGHT=operands.kind, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        GROUP_M=2, INTERPRET=True,
    )  # fmt: skip
    result: npt.NDArray[np.float32] = y.float().numpy()
    return result


@pytest.mark.parametrize("rows,n,k", [(1, 32, 128), (17, 48, 256), (50, 80, 128)])
@pytest.mark.parametrize("scheme", linear_operands.SCHEMES)
def test_rows_and_columns(scheme: str, rows: int, n: int, k: int) -> None:
    operands = linear_operands.make(scheme, rows, n, k)
    expected = gemm(*operands.reference(), kind=operands.kind)
    assert np.abs(run(operands, n, k) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", [s for s in linear_operands.SCHEMES if s != "int4_wo"])
def test_depth_that_the_block_does_not_divide(scheme: str) -> None:
    operands = linear_operands.make(scheme, 3, 16, 80)
    expected = gemm(*operands.reference(), kind=operands.kind)
    assert np.abs(run(operands, 16, 80) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("out", ["float32", "bfloat16"])
@pytest.mark.parametrize("scheme", ["bfloat16", "fp8", "int4_wo"])
def test_bias_and_residual(scheme: str, out: str) -> None:
    rows, n, k = 17, 48, 128
    operands = linear_operands.make(scheme, rows, n, k)
    rng = np.random.default_rng(5)
    bias = rng.standard_normal(n, np.float32)
    residual = rng.standard_normal((rows, n), np.float32)
    result = run(
        operands, n, k, out, bias=torch.from_numpy(bias), residual=torch.from_numpy(residual)
    )
    expected = gemm(*operands.reference(), bias, residual, kind=operands.kind)
    limit = 1e-5 if out == "float32" else 2**-8
    assert np.abs(result - expected).max() <= limit * np.abs(expected).max()


def test_result_of_a_row_does_not_depend_on_the_others() -> None:
    operands = linear_operands.make("bfloat16", 20, 48, 128)
    all_rows = run(operands, 48, 128)
    operands.x = operands.x[:3]
    assert np.array_equal(run(operands, 48, 128), all_rows[:3])
