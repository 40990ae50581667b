# SPDX-License-Identifier: Apache-2.0
"""The demo's engines for tests on a GPU, and the cpu engines that they are compared with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `benchmarks.gpu.demo` describes.

    The environment variable ENGINERY_GPU_ENGINES names one that was built elsewhere, since GPU
    machines need no compiler; without it they are built here.
    """
    packed = os.environ.get("ENGINERY_GPU_ENGINES")
    if packed is not None:
        return Path(packed)
    from benchmarks.gpu.pack import build_demo

    return build_demo(tmp_path_factory.mktemp("gpu"), "h100,h200")
