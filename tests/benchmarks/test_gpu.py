# SPDX-License-Identifier: Apache-2.0
"""What of the GPU benchmarks runs without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu.fill import fill
from benchmarks.gpu.hollow import HollowEngine, build_hollow
from benchmarks.gpu.limits import measured_limits
from benchmarks.gpu.on_device import commands
from benchmarks.gpu.summarize import summary
from benchmarks.gpu.work import ModelWork
from enginery.runtime.engine import Engine
from tests.support.kernel_compiler import FakeCompiler


@pytest.fixture(scope="module", params=["none", "fp8", "int8_sq", "int4_wo", "int8_wo"])
def hollow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hollow")
    engine = HollowEngine("tiny-llama", request.param, "h100", 4, 64, 128)
    with pytest.MonkeyPatch.context() as patch:
        FakeCompiler(patch)
        build_hollow(engine, folder / "checkpoint", folder / engine.name, folder / "cache")
    return folder / engine.name


def test_a_hollow_engine_is_filled(hollow: Path) -> None:
    with Engine(hollow) as engine:
        assert not engine.section("weights").any()
        described = engine.describe()
        others = {
            section["name"]: engine.section(section["name"]).copy()
            for section in described["sections"]
            if section["name"] != "weights"
        }
    assert fill(hollow, "cpu") == sum(tensor["bytes"] for tensor in described["tensors"])
    with Engine(hollow) as engine:
        for name, content in others.items():
            assert np.array_equal(engine.section(name), content)
        weights = engine.section("weights")
        for tensor in described["tensors"]:
            data = weights[tensor["offset"] : tensor["offset"] + tensor["bytes"]]
            assert data.any(), tensor["name"]
            if tensor["dtype"] == "f32":
                values = data.view(np.float32)
                assert np.isfinite(values).all()
                assert (np.abs(values) < 100).all(), tensor["name"]
            if tensor["name"].endswith((".inverse", ".scale")) and tensor["dtype"] == "f32":
                assert (data.view(np.float32) > 0).all()


def test_work_of_a_step(hollow: Path) -> None:
    with Engine(hollow) as engine:
        info, described = engine.info, engine.describe()
    work = ModelWork.of(described, info.kv_bytes_per_token)
    # tiny-llama: 2 layers, hidden 128, 4 heads and 2 KV heads of 32, ffn 256, vocabulary 512.
    weights_per_layer = 128 * (128 + 2 * 64) + 128 * 128 + 3 * 128 * 256
    assert work.linear_ops == 2 * 2 * weights_per_layer
    assert work.head_ops == 2 * 512 * 128
    assert work.attention_ops == 4 * 128 * 2
    embedding = next(t["bytes"] for t in described["tensors"] if "embed" in t["name"])
    everything = sum(tensor["bytes"] for tensor in described["tensors"])
    assert work.decode_weight_bytes == everything - embedding
    assert work.prefill_ops(3) == 3 * work.linear_ops + work.head_ops + 6 * work.attention_ops


def test_stages_name_their_processes(tmp_path: Path) -> None:
    for name, size in (("large", 100), ("small", 10)):
        folder = tmp_path / "engines" / name
        folder.mkdir(parents=True)
        (folder / "rank0.engine").write_bytes(bytes(size))
    (tmp_path / "engines" / "small" / ".filled").touch()
    labels = [label for label, _ in commands("throughput:all", tmp_path)]
    assert labels == ["throughput:small", "fill:large", "throughput:large"]
    with pytest.raises(SystemExit, match="no engine 'other'"):
        list(commands("profile:other", tmp_path))
    with pytest.raises(SystemExit, match="unknown stage 'speed'"):
        list(commands("speed", tmp_path))


def test_limits_and_tables(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    assert measured_limits(path) == {}
    path.write_text(
        '{"group": "limits", "step": "copy", "ok": true, "gb_per_s": 3000.0}\n'
        '{"group": "limits", "step": "matmul fp8", "ok": true, "tera_ops_per_s": 1400.0}\n'
        '{"group": "limits", "step": "matmul int8", "ok": false, "error": "E", "message": "m"}\n'
    )
    assert measured_limits(path) == {"gb_per_s": 3000.0, "fp8": 1400.0}
    load = {"group": "throughput", "step": "tiny: 4 sequences", "ok": True, "num_sequences": 4}
    lines = summary([load | {"tpot_ms_mean": 9.0}, load | {"tpot_ms_mean": 2.5}])
    rows = [line for line in lines if line.startswith("| throughput")]
    assert len(rows) == 1
    assert " 2.50 " in rows[0]
