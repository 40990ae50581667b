# SPDX-License-Identifier: Apache-2.0
"""Tensors of a `cpu` program whose numbers depend on more than one weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engine_reader import TensorRecord, ValueRecord
from tests.support.engines import build_tiny
from tests.support.scales import INPUT_AMAX, LARGEST, add_scales, read_tensors


@pytest.mark.parametrize("qformat", ["fp8", "int8_sq"])
def test_projections_computed_apart_share_the_scale_of_what_they_read(
    tmp_path: Path, qformat: str
) -> None:
    """Queries of the last layer stand apart; their own scale is not the largest of the three."""
    model = add_scales(write_tiny_checkpoint(tmp_path / "model", "llama"), qformat)
    (engine,) = build_tiny(model, tmp_path / "engine", dtype="bfloat16", qformat=qformat)
    tensors = {tensor.name: tensor for tensor in engine.tensors}
    names = ("q_proj", "k_proj", "v_proj")
    expected = np.float32(max(INPUT_AMAX[name] for name in names) / LARGEST[qformat])

    readers = {
        step.inputs[1].name.split(".")[-2]: step.inputs[0]
        for step in engine.steps
        if step.op == "linear" and isinstance(step.inputs[1], TensorRecord)
    }
    gathers = {
        step.outputs[0].name: step.inputs[0] for step in engine.steps if step.op == "gather_rows"
    }
    q_operand = readers["q_proj"]
    assert isinstance(q_operand, ValueRecord)
    assert gathers[q_operand.name] == readers["kv_proj"]

    normed = [step for step in engine.steps if step.outputs == (readers["kv_proj"],)]
    inverse = normed[-1].inputs[2]
    assert isinstance(inverse, TensorRecord)
    assert inverse.array[0] == np.float32(1) / expected
    prefix = "model.layers.1.self_attn."
    inverses = [name for name in tensors if name.startswith(prefix) and name.endswith(".inverse")]
    assert len(inverses) == 2, "one beside o_proj, and one for the other two"
    weights, _ = read_tensors(model / "model.safetensors")
    for stored, projections in (("q_proj", "q"), ("kv_proj", "kv")):
        rows = np.concatenate([weights[f"{prefix}{name}_proj.weight"] for name in projections])
        row_scales = np.abs(rows).max(axis=1) / LARGEST[qformat]
        scales = tensors[f"{prefix}{stored}.weight.scale"].array
        np.testing.assert_allclose(scales, row_scales * expected, rtol=1e-6)
