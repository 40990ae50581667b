# SPDX-License-Identifier: Apache-2.0
"""INT4 codes of other libraries as an engine keeps them: its values are the library's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.weight import Weight
from enginery.builder.options import BuildRequest
from enginery.builder.targets.code_rows import (
    dequantised_rows,
    grouped_int4_rows,
    read_zero_terms,
    zero_terms_of,
)
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.quantized_checkpoints import quantize_checkpoint
from tests.support.quantized_weights import FloatArray

# What keeps the codes of these has groups of 32, 64 and 128, zero points or none.
KINDS = ("awq", "awq_sym", "awq_g64", "awq_g128", "gptq_asym", "gptq_sym_g128", "w4a16_asym")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_checkpoint(tmp_path / "model", "qwen2")


def int4_weights(planned: PlannedBuild) -> list[Weight]:
    linears = [node.weight(1) for node in planned.network.nodes if node.op == "linear"]
    return [weight for weight in linears if weight.dtype == "i4"]


def librarys_values(weight: Weight, values: dict[str, FloatArray]) -> FloatArray:
    return np.concatenate([values[part.tensor][slice(*part.rows)] for part in weight.parts])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("qformat", ["auto", "w4a8_dynamic"])
def test_values_are_the_librarys(model: Path, kind: str, qformat: str) -> None:
    values = quantize_checkpoint(model, kind)
    planned = plan_build(BuildRequest(model=model, qformat=qformat))
    assert planned.notes == ()
    weights = int4_weights(planned)
    assert len(weights) == 8
    with Checkpoint(model, planned.config.stored_as) as checkpoint:
        for weight in weights:
            expected = librarys_values(weight, values)
            found = dequantised_rows(checkpoint, weight)
            if qformat == "auto":  # scales are rounded to bfloat16
                np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-6)
                continue
            # Scales are rounded by half a fifteenth of the row's largest, and have 15 steps.
            error = np.abs(found - expected)
            assert (error.max(axis=1) <= np.abs(expected).max(axis=1) / 15).all()
            assert error.mean() <= 0.04 * np.abs(expected).mean()


@pytest.mark.parametrize("kind", ["awq", "gptq_sym_g128"])
def test_shares_of_the_columns_are_those_of_the_whole(model: Path, kind: str) -> None:
    quantize_checkpoint(model, kind)
    planned = plan_build(BuildRequest(model=model, qformat="w4a8_dynamic"))
    (weight,) = (
        w for w in int4_weights(planned) if w.name == "model.layers.1.mlp.down_proj.weight"
    )
    assert weight.blocks is not None
    with Checkpoint(model, planned.config.stored_as) as checkpoint:
        whole = grouped_int4_rows(checkpoint, weight)
        terms = read_zero_terms(checkpoint, zero_terms_of(weight))
        assert terms.any() == (kind == "awq")
        for begin in (0, 128):
            part = weight.columns(begin, begin + 128)
            share = grouped_int4_rows(checkpoint, part)
            blocks = slice(begin // weight.blocks.size, (begin + 128) // weight.blocks.size)
            assert np.array_equal(share.q, whole.q[:, begin : begin + 128])
            assert np.array_equal(share.multipliers, whole.multipliers[:, blocks])
            assert np.array_equal(share.scale, whole.scale)
            of_share = read_zero_terms(checkpoint, zero_terms_of(part))
            assert np.array_equal(of_share, terms[:, blocks])
