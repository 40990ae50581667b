# SPDX-License-Identifier: Apache-2.0
"""INT4 codes of other libraries as an engine keeps them: its values are the library's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.weight import Weight
from enginery.builder.options import BuildRequest
from enginery.builder.targets.code_rows import (
    dequantised_rows,
    fp8_int4_rows,
    grouped_int4_rows,
    read_zero_terms,
    zero_terms_of,
)
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.modelopt_checkpoints import store_smoothed
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


def test_fp8_values_of_codes_are_those_of_torch(model: Path) -> None:
    store_smoothed(model, "W4A8_AWQ")
    planned = plan_build(BuildRequest(model=model))
    weights = int4_weights(planned)
    assert {w.blocks.product_dtype for w in weights if w.blocks is not None} == {"f8e4m3"}
    num_factors = 0
    with Checkpoint(model, planned.config.stored_as) as checkpoint:
        for weight in weights:
            expected = []
            for part in weight.parts:
                codes = checkpoint.stored[part.tensor].codes(part.rows, (0, weight.shape[1]))
                unit = checkpoint.read_float32(f"{part.tensor}_scale_2").reshape(())
                ratio = torch.from_numpy(codes.scale / unit).repeat_interleave(128, 1)
                rounded = (torch.from_numpy(codes.q) * ratio).to(torch.float8_e4m3fn).float()
                values = rounded.numpy() * unit
                if part.factor is not None:  # which must not move a code
                    values *= checkpoint.read_float32(part.factor)[:, np.newaxis]
                    num_factors += 1
                expected.append(values)
            found = dequantised_rows(checkpoint, weight)
            np.testing.assert_allclose(found, np.concatenate(expected), rtol=3e-7)
            part_of_rows = fp8_int4_rows(checkpoint, weight.rows(8, 24))
            whole = fp8_int4_rows(checkpoint, weight)
            assert np.array_equal(part_of_rows.q, whole.q[8:24])
            assert np.array_equal(part_of_rows.group_scale, whole.group_scale[8:24])
            assert np.array_equal(part_of_rows.scale, whole.scale[8:24])
    assert num_factors == 2  # up_proj of each layer has those of down_proj's input
