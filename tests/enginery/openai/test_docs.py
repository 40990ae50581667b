# SPDX-License-Identifier: Apache-2.0
"""docs/openai.md names what the front end takes and what it refuses."""

from __future__ import annotations

from pathlib import Path

from enginery.openai import unsupported
from enginery.openai.schemas import ChatRequest, CompletionRequest

DOC = (Path(__file__).parents[3] / "docs" / "openai.md").read_text(encoding="utf-8")


def test_every_parameter_is_named() -> None:
    names = {*CompletionRequest.model_fields, *ChatRequest.model_fields}
    names |= {*unsupported.COMPLETIONS, *unsupported.CHAT}
    missing = [name for name in sorted(names) if f"`{name}" not in DOC and f'"{name}"' not in DOC]
    assert not missing
