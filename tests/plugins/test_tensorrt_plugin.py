# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import pytest

from enginery.plugins import tensorrt_plugin


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ImportError, match=r"pip install enginery\[tensorrt\]"):
        tensorrt_plugin.register()
