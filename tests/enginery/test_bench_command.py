# SPDX-License-Identifier: Apache-2.0
"""`enginery bench` on a tiny engine: not how fast it is, but that the figures belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from enginery.cli.main import main
from tests.support.schemes import build_tiny_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_engine(
        tmp_path_factory.mktemp("bench"), scheme="int8_dynamic", max_batch_size=8,
        max_num_tokens=160, max_seq_len=256, tokens_per_block=16,
    )  # fmt: skip


def bench(engine: Path, *options: str) -> int:
    return main(["bench", str(engine), "--warmup", "2", *options])


def read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_one_run(engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    raw = tmp_path / "raw"
    status = bench(
        engine, "--num_prompts", "12", "--input_len", "5-40", "--output_len", "3-9",
        "--request-rate", "400", "--goodput", "ttft:60000", "e2el:60000", "--seed", "3",
        "--output_json", str(path), "--raw", str(raw),
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    assert "PERFORMANCE OVERVIEW: GUARANTEED_NO_EVICT" in printed
    for name in ("TTFT", "TPOT", "ITL", "E2E", "Goodput"):
        assert name in printed
    report = read(path)
    # vLLM's names
    assert (report["completed"], report["failed"], report["num_prompts"]) == (12, 0, 12)
    assert report["total_output_tokens"] == sum(report["output_lens"])
    assert report["total_input_tokens"] == sum(report["input_lens"])
    assert all(5 <= length <= 40 for length in report["input_lens"])
    assert all(3 <= length <= 9 for length in report["output_lens"])
    assert report["request_goodput"] == pytest.approx(report["request_throughput"])
    assert report["output_throughput"] == pytest.approx(
        report["total_output_tokens"] / report["duration"]
    )
    # The last arrives 12 / 400 s after the start; times count from the first one's arrival.
    assert report["start_times"] == sorted(report["start_times"])
    assert report["start_times"][-1] > 0.01
    assert report["errors"] == [""] * 12
    assert 0 < report["median_ttft_ms"] <= report["p99_ttft_ms"]
    # trtllm-bench's names
    assert report["request_info"]["num_requests"] == 12
    assert report["world_info"]["issue_rate"] == 400
    assert report["performance"]["total_latency_ms"] == pytest.approx(1e3 * report["duration"])
    assert list(report["streaming_metrics"]["ttft_percentiles"]) == [
        "minimum", "maximum", "average", "p50", "p90", "p95", "p99",
    ]  # fmt: skip
    assert report["engine"]["quantization"] == "int8_dynamic"
    assert len(report["engine"]["identity"]) == 64
    # our own
    assert 0 < report["runtime"]["batch_occupancy"] <= 1
    assert 0 < report["runtime"]["kv_utilisation"] <= report["runtime"]["max_kv_utilisation"] <= 1
    assert report["machine"]["num_cores"] >= 1
    assert len(report["machine"]["load_average"]) == 3
    assert report["versions"]["libenginery"] == report["versions"]["enginery"]
    lines = (raw / "guaranteed_no_evict.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["token_times"]) for line in lines] == report["output_lens"]


def test_policies_run_the_same_load(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    policies = ["STATIC_BATCH", "GUARANTEED_NO_EVICT", "MAX_UTILIZATION"]
    status = bench(
        engine, "--num_prompts", "40", "--input_len", "8", "--output_len", "2-30",
        "--policy", *policies, "--output_json", str(path),
    )  # fmt: skip
    assert status == 0
    assert "POLICIES, same load" in capsys.readouterr().out
    runs = read(path)["runs"]
    assert list(runs) == policies
    assert len({tuple(run["output_lens"]) for run in runs.values()}) == 1
    for policy, run in runs.items():
        assert run["world_info"]["scheduling_policy"] == policy
        assert run["request_rate"] is None
        assert 0 < run["runtime"]["mean_batch_size"] <= 8


def test_concurrency(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    common = ["--num_prompts", "20", "--input_len", "8", "--output_len", "9"]
    assert bench(engine, *common, "--concurrency", "3", "--output_json", str(path)) == 0
    assert 1 <= read(path)["max_concurrent_requests"] <= 3
    assert read(path)["max_concurrency"] == 3


def test_chunked_prefill_scenario(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "report.json"
    status = bench(
        engine, "--chunked_prefill_scenario", "--long_prompt_len", "150", "--num_decoding", "4",
        "--chunk_tokens", "8", "--output_json", str(path), "--raw", str(tmp_path / "raw"),
    )  # fmt: skip
    assert status == 0
    assert "chunked prefill off" in capsys.readouterr().out
    report = read(path)
    assert [run["enable_chunked_context"] for run in report["runs"]] == [True, False]
    assert report["scenario"]["prompt_len"] == 150
    for run in report["runs"]:
        assert run["tpot_ms"]["p99"] > 0
        assert run["long_prompt_ttft_ms"] > 0
    assert len(list((tmp_path / "raw").iterdir())) == 2


def test_dataset(engine: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "requests.jsonl"
    dataset.write_text(
        '{"task_id": 0, "prompt": "the sea and", "output_tokens": 4}\n'
        '{"task_id": 1, "input_ids": [1, 2, 3]}\n'
    )
    path = tmp_path / "report.json"
    common = ["--dataset", str(dataset), "--output_len", "6", "--input_len", "4"]
    assert bench(engine, *common, "--num_prompts", "2", "--output_json", str(path)) == 0
    assert read(path)["output_lens"] == [4, 6]
    assert read(path)["dataset"]["name"] == "requests.jsonl"
    assert bench(engine, *common, "--num_prompts", "3") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input_len", "250", "--output_len", "10"], "max_seq_len"),
        (["--input_len", "300"], "max_input_len"),
        (["--shared_prefix_len", "200"], "shared_prefix_len"),
        (["--chunked_prefill_scenario"], "max_num_tokens is 160, the scenario needs 4104"),
        (["--max_batch_size", "9"], "max_batch_size"),
    ],
)
def test_refuses_a_load_that_the_engine_cannot_run(
    engine: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(engine, "--output_len", "4", *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--input_len", "9-3"],
        ["--request_rate", "0"],
        ["--burstiness", "nan"],
        ["--goodput", "ttft"],
        ["--goodput", "itl:5"],
        ["--num_prompts", "0"],
        ["--policy", "LIFO"],
    ],
)
def test_refuses_bad_options(
    engine: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench(engine, *options)
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err
