# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import scale_columns

torch = pytest.importorskip("torch")

STORED = {"fp8": "float8_e4m3fn", "int8": "int8"}


def run(
    x: npt.NDArray[np.float32],
    factor: npt.NDArray[np.float32],
    inverse: float | None = None,
    stored: str = "bfloat16",
    act: str = "bfloat16",
) -> npt.NDArray[np.float32]:
    rows, columns = x.shape
    out = torch.full((rows + 1, columns), 3.0).to(getattr(torch, stored))
    spec.load("scale_columns")[(rows * -(-columns // 128),)](
        torch.from_numpy(x).to(getattr(torch, act)), torch.from_numpy(factor),
        None if inverse is None else torch.tensor([inverse]), out, COLUMNS=columns, BLOCK=128,
    )  # fmt: skip
    result: npt.NDArray[np.float32] = out.float().numpy()
    assert (result[rows] == 3.0).all(), "written past the last row"
    return result[:rows]


def operands(
    rows: int, columns: int, act: str = "bfloat16"
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(columns)
    x = torch.from_numpy(rng.standard_normal((rows, columns), np.float32) * 2)
    return x.to(getattr(torch, act)).float().numpy(), rng.standard_normal(columns, np.float32)


@pytest.mark.parametrize("act", ["bfloat16", "float16"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 64), (17, 111), (3, 300)])
def test_rows_are_rounded_once(rows: int, columns: int, act: str) -> None:
    x, factor = operands(rows, columns, act)
    exact = torch.from_numpy(scale_columns(x, factor))
    expected = exact.to(getattr(torch, act)).float().numpy()
    assert np.array_equal(run(x, factor, stored=act, act=act), expected)


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (17, 111), (3, 300)])
def test_codes_are_those_of_the_product_in_float32(rows: int, columns: int, kind: str) -> None:
    x, factor = operands(rows, columns)
    inverse = 150.0 if kind == "fp8" else 40.0
    expected = scale_columns(x, factor, [inverse], kind=kind)
    assert np.array_equal(run(x, factor, inverse, STORED[kind]), expected)
    assert np.abs(expected).max() >= (448 if kind == "fp8" else 127)  # the clamp was needed


@pytest.mark.parametrize("kind", ["fp8", "int8"])
def test_a_product_rounded_to_bfloat16_first_has_other_codes(kind: str) -> None:
    x, factor = operands(17, 111)
    inverse = 150.0 if kind == "fp8" else 40.0
    codes = run(x, factor, inverse, STORED[kind])
    rounded = torch.from_numpy(scale_columns(x, factor)).bfloat16().float().numpy()
    assert (scale_columns(rounded, np.ones(111), [inverse], kind=kind) != codes).any()
