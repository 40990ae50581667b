# SPDX-License-Identifier: Apache-2.0
"""Rules of operations that no plain decoder has."""

from __future__ import annotations

import pytest

from enginery.builder.network.network import Value
from enginery.builder.network.ops import ShapeError, node
from enginery.builder.network.weight import whole

X = Value("x", "tokens", 48)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16", "i8", "f8e4m3"])
def test_scaled_columns_have_the_dtype_of_their_reader(dtype: str) -> None:
    made = node("scale_columns", "y", X, whole("factor", (48,)), dtype=dtype)
    assert made.output == Value("y", "tokens", 48, dtype)
    assert node("scale_columns", "y", X, whole("factor", (48,))).output.dtype == "f32"


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (X, (47,), "factor does not fit x"),
        (X, (1,), "factor does not fit x"),
        (X, (1, 48), "factor is not of rank 1"),
        (Value("x", "tokens", 48, "bf16"), (48,), "x is not f32"),
    ],
)
def test_a_factor_that_does_not_fit(x: Value, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        node("scale_columns", "y", x, whole("factor", shape))


@pytest.mark.parametrize(
    ("group", "columns"), [(1, 48), (7, 7), (16, 3), (47, 2), (48, 1), (128, 1)]
)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i8"])
def test_the_last_group_is_what_is_left(group: int, columns: int, dtype: str) -> None:
    made = node("group_sums", "y", Value("x", "logits", 48, dtype), group=group)
    assert made.output == Value("y", "logits", columns)


def test_groups_that_cannot_be_summed() -> None:
    for dtype in ("f8e4m3", "f16"):
        with pytest.raises(ShapeError, match=f"x is {dtype}, not f32, bf16 or i8"):
            node("group_sums", "y", Value("x", "tokens", 48, dtype), group=16)
    with pytest.raises(ShapeError, match="group is below 1"):
        node("group_sums", "y", X, group=0)
    with pytest.raises(ShapeError, match="group is not an integer"):
        node("group_sums", "y", X)
