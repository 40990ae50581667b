# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import e4m3, int8, quantize

torch = pytest.importorskip("torch")

STORED = {"fp8": "float8_e4m3fn", "int8": "int8"}


def run(x: npt.NDArray[np.float32], inverse: float, kind: str) -> npt.NDArray[np.float32]:
    rows, columns = x.shape
    out = torch.zeros((rows, columns), dtype=getattr(torch, STORED[kind]))
    spec.load("quantize")[(rows * -(-columns // 128),)](
        torch.from_numpy(x).bfloat16(), torch.tensor([inverse]), out, COLUMNS=columns, BLOCK=128
    )
    result: npt.NDArray[np.float32] = out.float().numpy()
    return result


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@pytest.mark.parametrize("rows,columns", [(1, 64), (17, 111), (3, 300)])
def test_rows(rows: int, columns: int, kind: str) -> None:
    x = np.random.default_rng(columns).standard_normal((rows, columns), np.float32) * 2
    x = torch.from_numpy(x).bfloat16().float().numpy()
    inverse = 150.0 if kind == "fp8" else 40.0
    assert np.array_equal(run(x, inverse, kind), quantize(x, [inverse], kind=kind))


def test_ties_go_to_even_and_ends_are_clamped() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1000, -1000]], np.float32)
    assert run(x, 1.0, "int8").tolist() == [[0, 2, 2, 0, -2, -2, 127, -128]]
    # Spacing 2 between 16 and 32; carry into the exponent at 31; subnormals below 2^-6.
    x = np.array([[17, 19, 31, -31, 1000, -1000, 1.5 * 2**-9, 2**-10]], np.float32)
    expected = [[16, 20, 32, -32, 448, -448, 2 * 2**-9, 0]]
    assert run(x, 1.0, "fp8").tolist() == expected


def test_reference_rounds_as_torch() -> None:
    values = np.random.default_rng(1).standard_normal(10000).astype(np.float32) * 2.0 ** np.arange(
        -12, 8
    ).repeat(500)
    values = np.clip(values, -448, 448).astype(np.float32)
    assert np.array_equal(
        e4m3(values), torch.from_numpy(values).to(torch.float8_e4m3fn).float().numpy()
    )
    assert np.array_equal(int8(values), torch.from_numpy(values).round().clamp(-128, 127).numpy())
