# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from enginery.plugins.kernels import spec

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("columns", [1, 64, 111, 300])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_rows_of_tokens(columns: int, dtype: str) -> None:
    rng = np.random.default_rng(columns)
    vocab, token_ids = 19, np.array([18, 0, 7, 7, 18], np.int32)
    weight = torch.from_numpy(rng.integers(-127, 128, (vocab, columns)).astype(np.float32))
    weight = weight.to(getattr(torch, dtype))
    scale = None
    if dtype == "int8":
        scale = torch.from_numpy(rng.random(vocab).astype(np.float32)).to(torch.bfloat16)
    out = torch.full((len(token_ids), columns), float("nan"))
    grid = len(token_ids) * -(-columns // 128)
    spec.load("embed")[(grid,)](
        torch.from_numpy(token_ids), weight, scale, out, COLUMNS=columns, BLOCK=128
    )
    expected = spec.load_reference("embed")(
        token_ids, weight.float().numpy(), None if scale is None else scale.float().numpy()
    )
    assert np.array_equal(out.numpy(), expected)
