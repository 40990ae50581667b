# SPDX-License-Identifier: Apache-2.0
"""Whole checkpoints of every kind, through their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.config import read_config
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.quantized_checkpoints import KINDS, quantize_checkpoint


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_what_it_was_rounded_to(tmp_path: Path, kind: str) -> None:
    model = write_tiny_checkpoint(tmp_path / "model", "qwen2", dtype="bfloat16")
    values = quantize_checkpoint(model, kind, twin=tmp_path / "twin")
    with (
        Checkpoint(model, read_config(model).stored_as) as checkpoint,
        Checkpoint(tmp_path / "twin") as twin,
    ):
        assert checkpoint.stored.keys() == values.keys()
        added = checkpoint.tensors.keys() - twin.tensors.keys() - checkpoint.surplus
        assert all(name.endswith(".input_scale") for name in added)
        assert not twin.tensors.keys() - checkpoint.tensors.keys()
        for name, expected in values.items():
            num_rows, depth = expected.shape
            read = checkpoint.stored[name].float32((0, num_rows), (0, depth))
            np.testing.assert_array_equal(read, expected)
            np.testing.assert_array_equal(twin.read_float32(name), expected)
        bias = "model.layers.0.self_attn.q_proj.bias"
        np.testing.assert_array_equal(checkpoint.read(bias), twin.read(bias))
        assert checkpoint.read(bias).any()
