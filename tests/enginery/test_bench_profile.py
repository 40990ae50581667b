# SPDX-License-Identifier: Apache-2.0
"""`enginery bench --profile` on a tiny engine: which figures there are, and that they agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.bench.profile import plan_profile
from enginery.cli.main import main
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import RuntimeOptions
from tests.support.schemes import build_tiny_engine

LINEARS = {"qkv_proj", "kv_proj", "q_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_engine(
        tmp_path_factory.mktemp("profile"), scheme="int8_dynamic", max_batch_size=48,
        max_num_tokens=160, max_seq_len=256, tokens_per_block=16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("report") / "report.json"
    options = ["--profile", "--threads", "2", "--isa", "avx2", "--output_json", str(path)]
    assert main(["bench", str(engine), *options]) == 0
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_steps_within_the_limits_of_engine_and_options(engine: Path) -> None:
    with Engine(engine) as opened:
        plan = plan_profile(opened, RuntimeOptions())
        assert [(k.num_sequences, k.prompt_len) for k in plan.kinds] == [
            (1, 160), (1, 120), (16, 120),
        ]  # fmt: skip
        plan = plan_profile(opened, RuntimeOptions(max_batch_size=3), prefill_len=7)
        assert [(k.num_sequences, k.prompt_len) for k in plan.kinds] == [(1, 7), (1, 120), (3, 120)]
        plan = plan_profile(opened, RuntimeOptions(max_batch_size=1))
        assert [k.num_sequences for k in plan.kinds] == [1, 1]
        plan = plan_profile(opened, RuntimeOptions(max_chunk_tokens=32))
        assert plan.kinds[0].prompt_len == 32


def test_figures(report: dict[str, Any]) -> None:
    assert report["executor"] == "avx2"
    assert report["limits"]["num_threads"] == 2
    assert report["engine"]["quantization"] == "int8_dynamic"
    assert [step["kind"]["num_sequences"] for step in report["steps"]] == [1, 1, 16]
    for step in report["steps"]:
        assert step["num_steps"] == 10
        assert 0 < step["ops_us"] <= step["executor_us"] <= step["step_us"]
        assert 0 < step["host_us"] < step["step_us"]
        ops = {op["name"]: op for op in step["ops"]}
        assert {op["role"] for op in step["ops"]} - {""} == LINEARS
        assert {"embed", "rms_norm", "kv_append", "paged_attention", "rope"} <= set(ops)
        for op in step["ops"]:
            assert op["step_share"] == pytest.approx(op["time_us"] / step["step_us"])
            assert 0 <= op["step_share"] <= 1
            if op["time_us"]:
                assert op["gbytes_per_s"] == pytest.approx(op["bytes"] / op["time_us"] / 1e3)
            assert (op["limit_share"] is None) == (op["limit"] == "")
            assert (op["operations"] > 0) == (op["unit"] != "")
        assert step["gemm_peak_share"] > 0
        assert step["limit_share"] > 0


def test_a_prefill_multiplies_as_often_as_its_tokens(report: dict[str, Any]) -> None:
    prefill, decode, decode_of_16 = (
        {op["name"]: op for op in step["ops"]} for step in report["steps"]
    )
    # Past the keys and values of the second and last layer there is one row.
    rows = {"qkv_proj": 160, "kv_proj": 160, "q_proj": 1, "lm_head": 1}
    for role in LINEARS:
        name = next(name for name in decode if name.endswith(f" {role}"))
        one = decode[name]["operations"]
        assert decode_of_16[name]["operations"] == 16 * one
        assert prefill[name]["operations"] == rows.get(role, (160 + 1) / 2) * one
        assert prefill[name]["bytes"] == decode[name]["bytes"]


def test_what_is_printed(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--profile", "--isa", "portable", "--num_threads", "1", "--pin_threads"]
    assert main(["bench", str(engine), *options, "--profile_prefill_len", "16"]) == 0
    printed = capsys.readouterr().out
    assert "PROFILE: prefill of 16 tokens" in printed
    assert "PROFILE: decode of 16 sequences" in printed
    assert "products not known" in printed
    assert "GEMMs alone" not in printed  # nothing to compare with
    assert "outside the executor" in printed


def test_an_engine_too_short_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = build_tiny_engine(tmp_path, max_batch_size=2, max_num_tokens=16, max_seq_len=8)
    assert main(["bench", str(short), "--profile", "--isa", "portable"]) == 2
    assert "max_seq_len is 8" in capsys.readouterr().err
