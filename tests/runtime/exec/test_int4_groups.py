# SPDX-License-Identifier: Apache-2.0
"""Codes of other libraries in whole engines, on every instruction set, against numpy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.exec.test_extra_nodes import BFLOAT16, ENGINE, INT8, check
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.modelopt_checkpoints import store_smoothed
from tests.support.quantized_checkpoints import quantize_checkpoint
from tests.support.schemes import build_engine


@pytest.mark.parametrize(("kind", "size"), [("awq", 32), ("awq_g64", 64), ("awq_g128", 128)])
@pytest.mark.parametrize(("scheme", "limit"), [("int4_wo", BFLOAT16), ("w4a8_dynamic", INT8)])
@pytest.mark.parametrize("tp_size", [1, 2])
def test_groups_with_zero_points(
    kind: str, size: int, scheme: str, limit: float, tp_size: int, tmp_path: Path
) -> None:
    model = write_tiny_checkpoint(
        tmp_path / "model", "llama", head_dim=64, intermediate_size=384 if size < 128 else 512
    )
    quantize_checkpoint(model, kind)
    engine = build_engine(model, tmp_path / "engine", scheme, tp_size=tp_size, **ENGINE)
    for rank in check(engine, limit, tp_size):
        sums = [step for step in rank.steps if step.op == "group_sums"]
        assert [step.attributes["group"] for step in sums] == [size] * 8
        for step in rank.steps:
            if step.op == "linear" and step.version == 2:
                x, scales = step.inputs[0], step.inputs[5]
                assert x is not None and scales is not None
                assert scales.shape[1] * size == x.columns  # type: ignore[union-attr]


def test_fp8_activations(tmp_path: Path) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "llama")
    store_smoothed(model, "W4A8_AWQ")
    engine = build_engine(model, tmp_path / "engine", qformat="w4a8_awq", dtype="float32", **ENGINE)
    # Sums in another order push few activations to the next of 16 steps to a power of 2.
    (rank,) = check(engine, INT8)
    linears = [step for step in rank.steps if step.op == "linear"]
    assert [step.version for step in linears] == [3] * 9 + [1]
    assert all(step.inputs[2] is not None for step in linears[:9])
