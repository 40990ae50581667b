# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.main import main
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime, RuntimeOptions
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.scales import add_scales
from tests.support.schemes import SCHEMES, build_engine


def estimate(capsys: pytest.CaptureFixture[str], *flags: Any) -> dict[str, Any]:
    assert main(["estimate", *map(str, flags), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)["skus"]
    return result


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A folder with a config.json and nothing else."""
    model = write_tiny_checkpoint(tmp_path / "whole", "llama", num_heads=8, head_dim=32)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((model / "config.json").read_bytes())
    return bare


def test_config_alone_is_enough(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in (config, config / "config.json"):
        assert main(["estimate", str(model), "--sku", "h200,cpu", "--kv_cache_dtype", "fp8"]) == 0
        out = capsys.readouterr().out
        assert out.index("h200:") < out.index("cpu:")
        # Two KV heads of eight; nothing of hidden_size.
        assert "256 B of it: 2 x 2 layers x 2 KV heads x head_dim 32 x 1 bytes" in out


def test_a_rank_holds_its_share(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = [
        estimate(capsys, config, "--sku", "h200", "--tp_size", tp)["h200"]["memory_plan"]
        for tp in (1, 2)
    ]
    assert plans[1]["kv_bytes_per_token"] * 2 == plans[0]["kv_bytes_per_token"]
    assert plans[1]["weight_bytes"] < plans[0]["weight_bytes"]


def test_calibration_comes_later(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint without scales is looked at as if it had them."""
    model = write_tiny_checkpoint(tmp_path, "llama")
    flags = (model, "--sku", "h200,cpu", "--qformat", "fp8", "--kv_cache_dtype", "int8")
    assert all(entry["fits"] for entry in estimate(capsys, *flags).values())


def test_what_does_not_fit_says_what_would(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["estimate", str(config), "--sku", "rtx4090,h200", "--kv_cache_bytes", str(60 << 30)]
    assert main(flags) == 1
    out = capsys.readouterr().out
    assert "rtx4090: does not fit" in out and "the largest that fits is" in out
    assert "Memory plan (h200" in out
    assert main([*flags, "--json"]) == 1
    skus = json.loads(capsys.readouterr().out)["skus"]
    assert (skus["rtx4090"]["fits"], skus["h200"]["fits"]) == (False, True)
    assert main(["estimate", str(config), "--sku", "h20"]) == 2
    assert "sku: 'h20' is not known" in capsys.readouterr().err


def write_scaled_checkpoint(folder: Path, options: dict[str, str], num_layers: int = 3) -> Path:
    model = write_tiny_checkpoint(
        folder, "qwen2", num_layers=num_layers, hidden_size=512, num_heads=8, intermediate_size=1536
    )
    return add_scales(model, options.get("qformat", "none"), options.get("kv_cache_dtype", "auto"))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_engine_takes_what_was_estimated(
    scheme: str, tp_size: int, num_layers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_scaled_checkpoint(tmp_path / "model", SCHEMES[scheme], num_layers)
    # Many tokens, so that the threads' scratch is little beside the workspace.
    limits = {"max_num_tokens": 8192, "max_batch_size": 32, "tp_size": tp_size}
    options = SCHEMES[scheme] | {name: str(value) for name, value in limits.items()}
    flags: Sequence[str] = [x for name, value in options.items() for x in (f"--{name}", value)]
    plan = estimate(capsys, model, *flags)["cpu"]["memory_plan"]

    engine = build_engine(model, tmp_path / "engine", scheme, **limits)
    with (
        Engine(engine) as opened,
        Runtime(
            opened, RuntimeOptions(num_threads=1, kv_cache_bytes=plan["kv_cache_bytes"])
        ) as runtime,
    ):
        stats = runtime.stats()
        assert opened.info.weight_bytes == plan["weight_bytes"]
        assert opened.info.kv_bytes_per_token == plan["kv_bytes_per_token"]
        assert stats.num_blocks == plan["num_kv_blocks"]
        assert stats.workspace_bytes == pytest.approx(plan["workspace_bytes"], rel=0.05)
