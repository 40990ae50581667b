# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.plugins.kernels import spec

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("columns", [1, 64, 111, 300])
@pytest.mark.parametrize("logit_rows", [[0], [2, 5, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_rows_are_copied(columns: int, logit_rows: list[int]) -> None:
    x = np.random.default_rng(columns).standard_normal((7, columns), np.float32)
    rows = np.array(logit_rows, np.int32)
    out = torch.full((len(rows), columns), float("nan"))
    grid = len(rows) * -(-columns // 128)
    spec.load("gather_rows")[(grid,)](
        torch.from_numpy(x), torch.from_numpy(rows), out, COLUMNS=columns, BLOCK=128
    )
    assert np.array_equal(out.numpy(), spec.load_reference("gather_rows")(x, rows))
