# SPDX-License-Identifier: Apache-2.0
"""The comparison with peers: its arithmetic and its bookkeeping; nothing is measured."""

from __future__ import annotations

import argparse
import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import limits as limits_module
from benchmarks.peers import run as run_module
from benchmarks.peers.ceilings import Machine, ModelWork, ceilings, machine_of, steps
from benchmarks.peers.converters.checkpoint import Checkpoint, to_float32
from benchmarks.peers.converters.compressed import pack_int4, quantize_int8
from benchmarks.peers.converters.gguf_file import gguf_name, interleave_rope
from benchmarks.peers.drivers.measure import Request, Task, Timed, measure, memory_of
from benchmarks.peers.limits import limits_of_machine
from benchmarks.peers.plot import Bar, write_svg
from benchmarks.peers.report import (
    Spread,
    ceilings_by_round,
    compare,
    goal_of,
    groups,
    table,
)
from benchmarks.peers.run import (
    cpu_seconds,
    disturbance,
    is_measured,
    keep,
    read_samples,
    rotated,
    run_driver,
    warm_page_cache,
)
from benchmarks.peers.sides import SIDES, Case, Launch
from benchmarks.peers.workload import make_workload
from benchmarks.random_checkpoint import write_random_checkpoint
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.profile import MachineLimits

GIGA = 1e9


def sample(side: str, round_index: int, **values: Any) -> dict[str, Any]:
    case = {"shape": "qwen2.5-0.5b", "precision": "int8", "num_threads": 2, "isa": "native"}
    peer: dict[str, Any] = {"version": "1", "class": "c", "lm_head": "l", "kv_cache": "k"}
    if side == "enginery":
        peer |= {"weight_mb": 400, "kv_mb": 100}
    fixed = {"kind": "sample", "side": side, "round": round_index, "quick": False, "peer": peer}
    return fixed | case | {"measured": ["prefill", "decode"]} | values


def fake_task(**changes: Any) -> Task:
    workload = make_workload(1000, 0)
    fields = {"model": "m", "precision": "int8", "num_threads": 1, "measure": ["load"], "extra": {}}
    return Task.parse(json.dumps(fields | workload | changes))


class FakePeer:
    """Answers at once; keeps what it was asked."""

    def __init__(self, *, loses_a_token: bool = False) -> None:
        self.served: list[tuple[int, int]] = []
        self.generated: list[int] = []
        self.loses_a_token = loses_a_token

    def describe(self) -> dict[str, Any]:
        return {}

    def generate(self, request: Request) -> Timed:
        self.generated.append(len(request.prompt))
        count = request.num_tokens
        return Timed([1] * count, [0.5 + 0.25 * i for i in range(count)])

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        self.served.append((len(requests), max_in_flight))
        return sum(r.num_tokens for r in requests) - self.loses_a_token

    def close(self) -> None: ...


def test_limits_are_those_of_the_instructions_that_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure_limits(isa: str, num_threads: int) -> MachineLimits:
        if isa == "amx":
            raise InvalidArgumentError("isa = amx: this machine lacks it")
        scale = GIGA * (2 if isa == "avx512" else 1)
        return MachineLimits(30 * scale, 1, 100 * scale, 200 * scale, 400 * scale, num_threads)

    monkeypatch.setattr(limits_module, "measure_limits", measure_limits)
    limits = limits_of_machine(2)
    assert limits["bandwidth_gb_s"] == 60
    assert not [name for name in limits if "amx" in name]
    assert machine_of([limits], "int8", "native") == Machine(60 * GIGA, 800 * GIGA)
    assert machine_of([limits], "bf16", "avx2") == Machine(60 * GIGA, 200 * GIGA)


def test_all_peers_get_the_same_work() -> None:
    first, again, other = (make_workload(32000, index) for index in (0, 0, 1))
    assert first == again
    assert first["load"] != other["load"]
    outputs = [[r["num_tokens"] for r in w["load"]] for w in (first, other)]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 32 and min(outputs[0]) >= 16 and max(outputs[0]) <= 128
    tokens = [t for r in first["prefill"] + first["load"] for t in r["prompt"]]
    assert min(tokens) >= 256 and max(tokens) < 32000 - 16
    prompts = [tuple(r["prompt"]) for r in first["prefill"]]
    assert len(set(prompts)) == 6 and {len(p) for p in prompts} == {512}


def test_a_driver_leaves_out_the_warm_up() -> None:
    peer = FakePeer()
    result = measure(peer, fake_task(measure=["prefill", "decode", "load"]))
    assert result["prefill_512_tok_s"] == 512 / 0.5
    assert result["decode_tok_s"] == pytest.approx(4)
    assert len(result["prefill_512_all"]) == 5 and len(result["decode_all"]) == 3
    assert peer.generated == [512] * 6 + [16] * 4
    assert peer.served == [(16, 16), (32, 16)]
    assert result["load_tok_s"] > 0


def test_a_driver_measures_what_it_is_asked() -> None:
    assert measure(FakePeer(), fake_task(measure=[])) == {}


def test_a_load_that_loses_tokens_is_no_sample() -> None:
    with pytest.raises(RuntimeError, match="were asked for"):
        measure(FakePeer(loses_a_token=True), fake_task())


def test_memory_is_read_from_status(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t  2048 kB\nRssAnon:\t 512 kB\n")
    assert memory_of(str(status)) == {"peak_rss_mb": 2.0, "rss_anon_mb": 0.5}


def test_samples_survive_a_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.jsonl"
    samples = read_samples(path)
    assert samples == []
    keep(path, samples, {"kind": "limits", "round": 0})
    with path.open("a") as file:
        file.write('{"kind": "samp')
    assert read_samples(path) == samples
    keep(path, samples, {"kind": "limits", "round": 1})
    assert read_samples(path) == samples and len(samples) == 2
    path.write_text("damage\n" + path.read_text())
    with pytest.raises(json.JSONDecodeError):  # not the last line: nobody was killed there
        read_samples(path)


def test_what_was_measured_is_not_measured_again() -> None:
    key = {k: v for k, v in sample("vllm", 3).items() if k in run_module.KEY_FIELDS}
    assert is_measured([sample("vllm", 3)], key, ["decode"])
    assert not is_measured([sample("vllm", 3)], key, ["decode", "load"])
    assert not is_measured([sample("vllm", 2)], key, ["decode"])
    assert not is_measured([sample("openvino", 3)], key, ["decode"])
    assert not is_measured([sample("vllm", 3, quick=True)], key, ["decode"])
    assert not is_measured([sample("vllm", 3, error="no")], key, ["decode"])


def test_a_run_resumes_and_leaves_out_who_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []

    def fake_measure(side: str, case: Case, round_index: int, *_: Any) -> dict[str, Any]:
        asked.append((round_index, side))
        return {"measured": []} | ({"error": "broken"} if side == "vllm" else {})

    monkeypatch.setattr(run_module, "measure_side", fake_measure)
    limits = tmp_path / "limits"
    limits.write_text("#!/bin/sh\necho '{\"bandwidth_gb_s\": 1}'\n")
    limits.chmod(0o755)
    args = argparse.Namespace(
        work_dir=tmp_path,
        skip=["prefill", "decode", "load"],
        shape=["qwen2.5-0.5b"],
        precision=["int8"],
        threads=1,
        isa="native",
        quick=False,
        peers=["enginery", "vllm"],
        output=tmp_path / "samples.jsonl",
        rounds=2,
        timeout=1,
    )
    assert run_module.run(args) == 1
    assert asked == [(0, "enginery"), (0, "vllm"), (1, "enginery")]
    args.rounds = 3
    asked.clear()
    run_module.run(args)
    assert asked == [(0, "vllm"), (2, "enginery")]


def test_what_others_did_is_told_apart() -> None:
    assert disturbance((0.0, 100.0, 10.0), (10.0, 125.0, 30.0)) == 0.5
    assert disturbance((0.0, 100.0, 10.0), (10.0, 119.0, 30.0)) == 0.0
    before = cpu_seconds()
    assert all(x <= y for x, y in zip(before, cpu_seconds(), strict=True))


def test_sides_take_turns_at_being_first() -> None:
    assert [rotated(["a", "b", "c"], i)[0] for i in range(4)] == ["a", "b", "c", "a"]


def test_a_driver_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nsleep 60\n")
    script.chmod(0o755)
    with pytest.raises(subprocess.TimeoutExpired):
        run_driver(Launch(script, "x", tmp_path), 1, "{}", tmp_path, 0.2)


def test_a_driver_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        run_driver(Launch(Path(sys.executable), "none", tmp_path), 1, "{}", tmp_path, 60)


def test_every_side_has_a_launch(tmp_path: Path) -> None:
    for make in SIDES.values():
        for precision in ("int8", "bf16", "int4"):
            launch = make(Case("tinyllama-1.1b", precision, 2, "native"), tmp_path)
            driver = Path(run_module.__file__).parent / "drivers" / f"{launch.module}.py"
            assert driver.is_file()


def test_ratios_are_of_the_same_round() -> None:
    ours, theirs = [10.0, 20.0, 30.0], [10.0, 10.0, 10.0]
    samples = [sample("enginery", i, decode_tok_s=v) for i, v in enumerate(ours)]
    samples += [sample("vllm", i, decode_tok_s=v) for i, v in enumerate(theirs)]
    samples += [sample("openvino", i, decode_tok_s=5.0) for i in range(3)]
    comparison = compare(samples, "decode_tok_s")
    assert comparison is not None
    assert comparison.best_peer == "vllm"
    assert comparison.ratio == Spread(2.0, 1.0, 3.0)
    assert compare(samples, "load_tok_s") is None


def test_of_a_cost_the_smallest_is_best() -> None:
    samples = [sample("enginery", 0, first_token_ms=50.0)]
    samples += [sample("vllm", 0, first_token_ms=900.0), sample("llama.cpp", 0, first_token_ms=300)]
    comparison = compare(samples, "first_token_ms")
    assert comparison is not None
    assert (comparison.best_peer, comparison.ratio.median) == ("llama.cpp", 6.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "ceiling", "expected"),
    [
        (13.0, 10.0, None, ("×1.25", True)),
        (12.0, 10.0, None, ("×1.25", False)),
        (12.0, 10.0, 14.0, ("85% of the ceiling", True)),
        (11.0, 10.0, 14.0, ("85% of the ceiling", False)),
        (13.0, 10.0, 100.0, ("×1.25", True)),
    ],
)
def test_a_goal_beyond_the_ceiling_is_lowered(
    ours: float, theirs: float, ceiling: float | None, expected: tuple[str, bool]
) -> None:
    samples = [sample("enginery", 0, decode_tok_s=ours), sample("vllm", 0, decode_tok_s=theirs)]
    tops = {} if ceiling is None else {0: ceiling}
    assert goal_of("int8", "decode_tok_s", samples, tops) == expected


def test_each_round_is_judged_by_its_own_ceiling() -> None:
    """Memory was slow in the second and third: there 85 % of what it allowed is asked."""
    rates = [(13.0, 10.0, 100.0), (6.0, 6.0, 7.0), (6.1, 6.0, 7.0)]
    samples = [sample("enginery", r, decode_tok_s=ours) for r, (ours, _, _) in enumerate(rates)]
    samples += [sample("vllm", r, decode_tok_s=peer) for r, (_, peer, _) in enumerate(rates)]
    tops = {r: top for r, (_, _, top) in enumerate(rates)}
    words = "85% of the ceiling"
    assert goal_of("int8", "decode_tok_s", samples, tops) == (words, True)
    samples[1]["decode_tok_s"] = samples[2]["decode_tok_s"] = 5.9
    assert goal_of("int8", "decode_tok_s", samples, tops) == (words, False)


def test_memory_counts_as_it_was_beside_the_sample() -> None:
    limits = [{"kind": "limits", "bandwidth_gb_s": 50.0, "int8_amx_gops": 1000.0}]
    machine = machine_of(limits, "int8", "native")
    samples = [
        sample("enginery", 0, bandwidth_gb_s=25.0),
        sample("enginery", 1),
        sample("vllm", 2, bandwidth_gb_s=1.0),
    ]
    tops = ceilings_by_round(groups(samples)[0], samples, machine)["decode_tok_s"]
    assert set(tops) == {0, 1}
    assert tops[1] == pytest.approx(2 * tops[0])
    assert not ceilings_by_round(groups(samples)[0], samples, Machine(0, 0))["decode_tok_s"]


def test_memory_is_judged_by_weights_and_cache() -> None:
    samples = [sample("enginery", 0, peak_rss_mb=640.0), sample("vllm", 0, peak_rss_mb=700.0)]
    assert goal_of("int8", "peak_rss_mb", samples, {}) == ("≤ 650, least", True)
    samples[1]["peak_rss_mb"] = 630.0
    assert goal_of("int8", "peak_rss_mb", samples, {}) == ("≤ 650, least", False)


def test_the_table_holds_what_is_there() -> None:
    samples = [sample("enginery", 0, decode_tok_s=20.0), sample("vllm", 0, error="a\nbroken")]
    limits = [{"kind": "limits", "bandwidth_gb_s": 30.0, "int8_amx_gops": 1000.0}]
    text = table(groups(samples)[0], samples, limits)
    row = next(line for line in text.splitlines() if line.startswith("| decode_tok_s"))
    assert "| 20 (20–20) | – | – |" in row
    assert "* vllm: failed: broken" in text


def test_steps_keep_the_batch_full() -> None:
    assert list(steps([(4, 2), (4, 1), (4, 2)], 2)) == [(8, 2, 8), (5, 2, 9), (1, 1, 5)]
    load = [(128, 100)] * 32
    found = list(steps(load, 16))
    assert len(found) == 200
    assert sum(outputs for _, outputs, _ in found) == 3200
    assert sum(tokens for tokens, _, _ in found) == 32 * (128 + 99)


def test_ceilings_follow_memory_and_arithmetic() -> None:
    work = ModelWork.of("tinyllama-1.1b", "int8")
    assert work.num_of_tokens + work.num_of_outputs == pytest.approx(1.034e9, rel=1e-2)
    # Of the last of 22 layers a token without logits needs keys and values alone.
    query, feed_forward = 2048 * 2048, 3 * 2048 * 5632
    assert work.num_of_outputs == 32000 * 2048 + 2 * query + feed_forward
    assert work.kv_bytes_per_token == 2 * 22 * 4 * 64 * 2
    slow_memory = ceilings("tinyllama-1.1b", "int8", Machine(10 * GIGA, 1e30))
    assert slow_memory["decode_tok_s"] == pytest.approx(10 * GIGA / work.weight_bytes, rel=1e-2)
    slow_arithmetic = ceilings("tinyllama-1.1b", "int8", Machine(1e30, 1000 * GIGA))
    prefill = 1000 * GIGA / (2 * work.num_of_tokens)
    assert slow_arithmetic["prefill_512_tok_s"] == pytest.approx(prefill, rel=1e-2)
    sizes = [ModelWork.of("tinyllama-1.1b", p).weight_bytes for p in ("int4", "int8", "bf16")]
    assert sizes == sorted(sizes)


def test_a_ceiling_is_of_the_best_round_and_the_right_instructions() -> None:
    limits = [
        {"bandwidth_a_gb_s": 5.0, "int8_amx_gops": 90.0, "int8_avx2_gops": 9.0},
        {"bandwidth_a_gb_s": 7.0, "int8_amx_gops": 80.0, "float32_avx2_gops": 4.0},
    ]
    assert machine_of(limits, "int8", "native") == Machine(7 * GIGA, 90 * GIGA)
    assert machine_of(limits, "int8", "avx2") == Machine(7 * GIGA, 9 * GIGA)
    assert machine_of(limits, "bf16", "avx2") == Machine(7 * GIGA, 4 * GIGA)


def test_a_checkpoint_is_read_bit_by_bit(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_random_checkpoint("tiny-qwen2", tmp_path))
    tensors = dict(checkpoint.tensors())
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (128, 256)
    values = to_float32(tensors["model.norm.weight"])
    assert values.mean() == pytest.approx(1, abs=0.1)
    assert len(checkpoint.tokenizer["model"]["vocab"]) + 6 >= checkpoint.config["vocab_size"] - 16


def test_names_are_those_of_gguf() -> None:
    assert gguf_name("model.layers.11.self_attn.q_proj.bias") == "blk.11.attn_q.bias"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"
    assert gguf_name("lm_head.weight") == "output.weight"


def test_rope_halves_become_neighbours() -> None:
    rows = np.arange(8)[:, None]
    assert interleave_rope(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_codes_and_scales_give_the_weights_back() -> None:
    weight = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    codes, scale = quantize_int8(weight)
    assert np.abs(codes * scale - weight).max() <= scale.max() * 0.501
    packed, scale = pack_int4(weight)
    assert packed.shape == (3, 32) and scale.shape == (3, 2)
    nibbles = packed.view(np.uint32)[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
    values = (nibbles.astype(np.float32) - 8).reshape(3, 2, 128) * scale[:, :, None]
    assert np.abs(values.reshape(3, 256) - weight).max() <= scale.max() * 0.501


def test_the_plot_is_xml(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    write_svg(tmp_path / "a.svg", {"a & b": [Bar("enginery", 2.0, 1.0, 3.0)], "none": []})
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")


def test_files_are_read_without_large_pages_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    class SmallPages(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError("Invalid argument")

        def __getitem__(self, at: Any) -> Any:
            read.append(at)
            return super().__getitem__(at)

    monkeypatch.setattr(mmap, "mmap", SmallPages)
    (tmp_path / "config.json").touch()  # an empty file cannot be mapped
    (tmp_path / "weights").write_bytes(bytes(mmap.PAGESIZE + 1))
    warm_page_cache(tmp_path)
    assert read == [0, mmap.PAGESIZE]


def test_model_that_was_not_converted_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"shape-int8\.engine: is missing; run .* convert"):
        warm_page_cache(tmp_path / "shape-int8.engine")
