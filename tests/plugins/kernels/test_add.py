# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.plugins.kernels import spec
from enginery.plugins.kernels.reference_linear import add

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("rows,columns", [(1, 64), (17, 111), (3, 300)])
def test_rows(rows: int, columns: int) -> None:
    rng = np.random.default_rng(columns)
    a, b = (rng.standard_normal((rows, columns), np.float32) for _ in range(2))
    out = torch.full((rows, columns), float("nan"))
    spec.load("add")[(rows * -(-columns // 128),)](
        torch.from_numpy(a), torch.from_numpy(b), out, COLUMNS=columns, BLOCK=128
    )
    assert np.array_equal(out.numpy(), add(a, b))
