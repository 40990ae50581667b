# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.runtime.engine import Engine
from enginery.triton_backend.trtllm.token_text import TokenBytes
from tests.support.schemes import build_tiny_engine


@pytest.fixture(scope="package")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(build_tiny_engine(tmp_path_factory.mktemp("tiny"))) as opened:
        yield opened


@pytest.fixture(scope="package")
def engine_dir(engine: Engine) -> Path:
    return Path(engine.path)


@pytest.fixture(scope="package")
def token_bytes(engine: Engine) -> TokenBytes:
    return TokenBytes(engine)
