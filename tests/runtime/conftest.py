# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.runtime.engine import Engine
from tests.support.schemes import build_tiny_engine


@pytest.fixture(scope="session")
def engine_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny float32 llama: 16 tokens per block, sequences of at most 256 tokens."""
    return build_tiny_engine(
        tmp_path_factory.mktemp("tiny"),
        tokens_per_block=16,
        max_seq_len=256,
        max_batch_size=8,
        max_num_tokens=64,
    )


@pytest.fixture(scope="session")
def engine(engine_path: Path) -> Iterator[Engine]:
    with Engine(engine_path) as opened:
        yield opened
