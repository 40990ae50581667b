# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from enginery.cli.engine_text import engine_text
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.engines import build_tiny


def text_of(
    tmp_path: Path, *, shows_all: bool, tp_size: int = 1, qformat: str = "int8_dynamic"
) -> str:
    model = write_tiny_checkpoint(
        tmp_path / "model", "qwen2", num_layers=12, sliding_window=9,
        config_overrides={"max_window_layers": 2},
    )  # fmt: skip
    output = tmp_path / "engine"
    engines = build_tiny(model, output, qformat=qformat, tp_size=tp_size)
    manifest = json.loads((output / "manifest.json").read_text())
    return engine_text(manifest, engines[0].describe(), shows_all=shows_all)


def test_layers_alike_are_shown_once(tmp_path: Path) -> None:
    text = text_of(tmp_path, shows_all=False)
    program = text[text.index("Program (") : text.index("Weights (")]
    # Three kinds of layers: from the third on they have a window, the last drops rows before its
    # queries.
    assert program.count("for layer N in") == 2
    assert "for layer N in 0 .. 1:" in program and "for layer N in 2 .. 10:" in program
    assert program.count("paged_attention(") == 3
    assert program.count("sliding_window=9") == 2
    assert "input_layernorm.last_rows = gather_rows(input_layernorm)" in program
    assert "hidden_states += linear(swiglu, model.layers.N.mlp.down_proj.weight, .scale" in program
    weights = text[text.index("Weights (") :]
    assert weights.count("for layer N in 0 .. 10:") == 1
    assert "model.layers.11.self_attn.q_proj.weight" in weights


def test_scales_of_groups_are_shown(tmp_path: Path) -> None:
    text = text_of(tmp_path, shows_all=False, qformat="w4a8_dynamic")
    assert "(swiglu, model.layers.N.mlp.down_proj.weight, .scale, -, .column_sums, .group" in text
    assert re.search(r"down_proj.weight +i4\[128, 256\] +n16k8 +16 KiB", text)
    assert re.search(r"down_proj.weight.group_scales +i8\[128, 2\] +n16k1 +256 B", text)


@pytest.mark.parametrize("tp_size", [1, 2])
def test_all_shows_every_layer(tmp_path: Path, tp_size: int) -> None:
    text = text_of(tmp_path, shows_all=True, tp_size=tp_size)
    assert "for layer" not in text
    for layer in range(12):
        assert f"model.layers.{layer}.mlp.down_proj.weight.column_sums" in text
    assert text.count("all_reduce(") == (24 if tp_size == 2 else 0)


def test_header_checkpoint_and_plan_are_there(tmp_path: Path) -> None:
    text = text_of(tmp_path, shows_all=False)
    for part in ("sku", "kv_bytes_per_token", "model.safetensors", "checked at open", "Qwen2"):
        assert part in text
