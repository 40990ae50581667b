# SPDX-License-Identifier: Apache-2.0
"""The emulated executor computes from the bytes of the engine directory and from nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from enginery.runtime.engine import Engine
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import FloatArray, build_emulated, emulated, random_tokens

TOKENS = random_tokens(3, seed=7)
RANK_FILE = "rank0.engine"


def first_logits(engine: Path, provider: str) -> FloatArray:
    with emulated(engine, provider) as model:
        return model.step({"a": TOKENS})["a"]


def write(engine: Path, offset: int, data: bytes) -> None:
    with (engine / RANK_FILE).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def place(engine: Path, section: str, tensor: str | None = None) -> int:
    """Offset in the file of a section, or of a tensor in it."""
    with Engine(engine) as opened:
        description = opened.describe()
    begin: int = next(s["offset"] for s in description["sections"] if s["name"] == section)
    if tensor is None:
        return begin
    return begin + int(next(t["offset"] for t in description["tensors"] if t["name"] == tensor))


@pytest.fixture
def engine(llama_engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama_engine, tmp_path / "engine"))


@pytest.mark.parametrize("provider", ["onnx", "native"])
def test_one_byte_of_a_weight_changes_the_logits(provider: str, engine: Path) -> None:
    before = first_logits(engine, provider)
    np.testing.assert_array_equal(first_logits(engine, provider), before)
    offset = place(engine, "weights", "model.layers.1.mlp.down_proj.weight")
    old = (engine / RANK_FILE).read_bytes()[offset + 1]
    write(engine, offset + 1, bytes([old ^ 0x80]))  # the sign of the first element
    after = first_logits(engine, provider)
    assert np.isfinite(after).all() and (after != before).any()


def test_the_checkpoint_is_not_needed(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", "llama", dtype="bfloat16")
    engine = build_emulated(checkpoint, tmp_path / "engine")
    shutil.rmtree(checkpoint)
    kept = {path for path in engine.iterdir() if path.name != RANK_FILE}
    for path in kept:
        path.unlink()
    assert np.isfinite(first_logits(engine, "onnx")).all()


def test_logits_that_are_not_finite_come_to_the_host(engine: Path) -> None:
    offset = place(engine, "weights", "model.norm.weight")
    write(engine, offset, np.array([np.nan], np.float32).tobytes())
    with emulated(engine) as model:
        model.executor.execute(model.batch({"a": TOKENS[:1]}))
        output = model.executor.collect()
    assert output.token_ids is not None and output.token_ids.tolist() == [-1]
    assert output.logits is not None and np.isnan(output.logits).all()
