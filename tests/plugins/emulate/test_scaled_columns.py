# SPDX-License-Identifier: Apache-2.0
"""Attention whose columns are scaled before the output projection, by both providers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import (
    EMULATED,
    EngineWeights,
    build_emulated,
    emulated,
    random_tokens,
    reference_logits,
)
from tests.support.extra_nodes import add_factors, builds_with, with_factors
from tests.support.scales import add_scales
from tests.support.tolerances import check_logits, relative_error

TOKENS = random_tokens(5, seed=1)


@pytest.mark.parametrize("provider", ["onnx", "native"])
@pytest.mark.parametrize("qformat", ["none", "int8_sq"])
def test_logits(
    qformat: str, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama", dtype="bfloat16")
    add_factors(add_scales(checkpoint, qformat))
    with builds_with("build_decoder", with_factors):
        engine = build_emulated(checkpoint, tmp_path / "engine", qformat=qformat)
    expected = reference_logits(checkpoint, engine, TOKENS)
    with emulated(engine, provider) as model:
        prefill = model.step({"a": TOKENS[:4]})["a"]
        decode = model.step({"a": TOKENS[4:]})["a"]
    got = np.concatenate([prefill, decode])
    check_logits(got, expected, EMULATED[qformat])
    with monkeypatch.context() as patch:
        patch.setattr(EngineWeights, "factor", lambda *_: None)
        without = reference_logits(checkpoint, engine, TOKENS)
    assert relative_error(got, without).max() > 3 * EMULATED[qformat].limit, "factors are not seen"
