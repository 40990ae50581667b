# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.emulation import build_emulated


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint: two layers, two query heads to a key-value head."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("llama"), "llama", dtype="bfloat16")


@pytest.fixture(scope="session")
def llama_engine(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its engine in bfloat16."""
    return build_emulated(llama, tmp_path_factory.mktemp("engine") / "bf16")
