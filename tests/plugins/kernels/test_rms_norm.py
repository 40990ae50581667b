# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import rms_norm

torch = pytest.importorskip("torch")

EPSILON = 1e-5
STORED = {None: "bfloat16", "fp8": "float8_e4m3fn", "int8": "int8"}


@pytest.mark.parametrize("kind", [None, "fp8", "int8"])
@pytest.mark.parametrize("rows,columns", [(1, 64), (17, 111), (3, 2048)])
def test_rows(rows: int, columns: int, kind: str | None) -> None:
    rng = np.random.default_rng(columns)
    x = rng.standard_normal((rows, columns), np.float32) * 3
    weight = rng.standard_normal(columns, np.float32)
    inverse = None if kind is None else np.array([400.0 if kind == "fp8" else 60.0], np.float32)
    out = torch.zeros((rows, columns), dtype=getattr(torch, STORED[kind]))
    spec.load("rms_norm")[(rows,)](
        torch.from_numpy(x), torch.from_numpy(weight),
        None if inverse is None else torch.from_numpy(inverse), out,
        EPSILON=EPSILON, COLUMNS=columns, BLOCK=1 << (columns - 1).bit_length(),
    )  # fmt: skip
    expected = rms_norm(x, weight, inverse, epsilon=EPSILON, kind=kind)
    result = out.float().numpy()
    if kind is None:
        assert np.abs(result - expected).max() <= np.abs(expected).max() * 2**-8
        return
    # A value within float32's rounding of a midpoint may fall to either side of it.
    assert np.mean(result != expected) < 0.01
    spacing = np.maximum(np.abs(expected), 2**-6) * 2**-3 if kind == "fp8" else 1.0
    assert (np.abs(result - expected) <= spacing * 1.001).all()
    limit = 448 if kind == "fp8" else 127
    assert np.abs(result).max() >= limit  # the clamp was needed


def test_nan_stays_visible() -> None:
    x = torch.full((1, 32), float("nan"))
    out = torch.zeros((1, 32), dtype=torch.bfloat16)
    spec.load("rms_norm")[(1,)](x, torch.ones(32), None, out, EPSILON=EPSILON, COLUMNS=32, BLOCK=32)
    assert torch.isnan(out).all()
