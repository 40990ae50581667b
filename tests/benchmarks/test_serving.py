# SPDX-License-Identifier: Apache-2.0
"""The load on servers: its arrivals, its arithmetic and its report; no server is measured."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from benchmarks.serving import agree
from benchmarks.serving.agree import comparison, num_requests
from benchmarks.serving.clients import OpenAIClient, TritonClient
from benchmarks.serving.figures import summarise
from benchmarks.serving.generator import Reply, Tokens, offer, to_record
from benchmarks.serving.loads import Level, make_load
from benchmarks.serving.plot import Line, Panel, write_svg
from benchmarks.serving.report import GOALS, cells_of, goals, last_level, limits, report
from benchmarks.serving.run import is_measured
from benchmarks.serving.server import (
    HISTOGRAMS,
    RUNTIME,
    Server,
    grown_means,
    read_histograms,
)
from enginery.bench.metrics import RequestRecord
from enginery.bench.workload import BenchRequest


class FakeClient:
    """Answers each request after a while with one token for each of its bytes."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.num_open = self.max_open = 0
        self.sent: list[tuple[float, bytes]] = []

    def encode(self, request: BenchRequest, seed: int) -> bytes:
        return bytes(request.output_tokens)

    async def send(self, payload: bytes) -> Reply:
        reply = Reply(time.monotonic())
        self.sent.append((reply.submit_time, payload))
        self.num_open += 1
        self.max_open = max(self.max_open, self.num_open)
        await asyncio.sleep(self.delay_s)
        self.num_open -= 1
        reply.chunks.append((time.monotonic(), payload))
        return reply

    def decode(self, chunks: Sequence[tuple[float, bytes]]) -> Tokens:
        return Tokens([(now, len(chunk)) for now, chunk in chunks], "length")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def record(index: int, submit: float, first: float, last: float, count: int = 11) -> RequestRecord:
    times = np.linspace(first, last, count).tolist()
    return RequestRecord(index, 128, submit, token_times=times, end_time=last)


def sample(side: str, round_index: int = 0, **changes: Any) -> dict[str, Any]:
    """A sample of 16 users whose requests take 100 ms to the first token and 40 ms a token."""
    records = [record(i, i / 10, i / 10 + 0.1, i / 10 + 0.5) for i in range(20)]
    fixed = {
        "date": "2026-11-27", "machine": "m", "commit": "c", "load_average": 1.0, "quick": False,
        "num_threads": 0, "round": round_index, "side": side, "kind": "users", "value": 16.0,
        "disturbance": 0.0, "processors": {"load generator": 0.1, "tritonserver": 1.5},
        "server_means_ms": {} if side == "bare" else {"ttft": 95.0},
    }  # fmt: skip
    return fixed | summarise(records, num_ramp=2) | changes


def test_all_sides_of_a_round_get_the_same_load() -> None:
    for level in (Level("users", 4.0), Level("rate", 3.0), Level("alone", 1.0)):
        first, again, other = (make_load(level, 1000, index) for index in (0, 0, 1))
        assert first.requests == again.requests != other.requests
        assert np.array_equal(first.arrivals, again.arrivals)
        assert len(make_load(level, 1000, 0, quick=True).requests) < len(first.requests)


def test_users_begin_at_once_and_their_first_requests_are_not_counted() -> None:
    load = make_load(Level("users", 8.0), 1000, 0)
    assert load.level.num_ramp == load.level.num_users == 8
    assert not load.arrivals.any()
    assert len(load.requests) > 4 * 8


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    load = make_load(Level("rate", 200.0), 1000, 0)
    assert load.level.num_users is None and load.level.num_ramp == 0
    gaps = np.diff(load.arrivals)
    assert load.arrivals[-1] == pytest.approx(len(load.requests) / 200)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as of an exponential distribution
    assert np.mean(gaps > gaps.mean()) == pytest.approx(np.exp(-1), abs=0.03)


def test_a_closed_loop_keeps_its_users_busy() -> None:
    client = FakeClient(delay_s=0.002)
    payloads = [bytes([i]) for i in range(20)]
    replies = asyncio.run(offer(client, payloads, np.zeros(20), 3))
    assert client.max_open == 3
    assert [reply.chunks[0][1] for reply in replies] == payloads


def test_an_open_loop_waits_for_the_time_and_for_nobody() -> None:
    client = FakeClient(delay_s=0.2)
    arrivals = np.array([0.0, 0.02, 0.04])
    begin = time.monotonic()
    asyncio.run(offer(client, [b"a", b"b", b"c"], arrivals, None))
    assert client.max_open == 3
    assert all(sent - begin >= at for (sent, _), at in zip(client.sent, arrivals, strict=True))


def test_a_reply_of_too_few_tokens_is_an_error() -> None:
    client = FakeClient()
    reply = Reply(1.0, [(1.5, b"ab"), (2.0, b"c")])
    whole = to_record(0, BenchRequest([1], 3), reply, client)
    assert whole.is_complete and whole.token_times == [1.5, 1.5, 2.0] and whole.end_time == 2.0
    assert to_record(0, BenchRequest([1], 4), reply, client).error == "3 tokens of 4 came"
    assert (
        to_record(0, BenchRequest([1], 3), Reply(1.0, error="refused"), client).error == "refused"
    )


def test_rates_of_a_closed_loop_are_of_the_time_in_which_all_users_work() -> None:
    # Two users, a request a second each, ten tokens 0.1 s apart; the first two are the ramp.
    records = [record(i, i // 2, i // 2 + 0.1, i // 2 + 1.0, count=10) for i in range(10)]
    found = summarise(records, num_ramp=2)
    assert found["num_requests"] == 8
    assert found["output_tok_s"] == pytest.approx(20)
    assert found["request_s"] == pytest.approx(7 / 3)
    assert found["ttft"]["p50"] == pytest.approx(100)
    assert found["share_met"] == 0.0 and found["tpot"]["p50"] == pytest.approx(100)


def test_rates_of_an_open_loop_are_of_the_whole_run() -> None:
    records = [record(i, i, i + 0.1, i + 0.5) for i in range(4)]
    found = summarise(records, num_ramp=0)
    assert found["output_tok_s"] == pytest.approx(44 / 3.5)
    assert found["share_met"] == 1.0 and found["goodput_s"] == found["request_s"]


def test_a_load_of_which_a_request_failed_is_no_sample() -> None:
    bad = record(1, 0, 1, 2)
    bad.error = "queue is full"
    with pytest.raises(RuntimeError, match="1 of 2 requests failed, first: queue is full"):
        summarise([record(0, 0, 1, 2), bad], num_ramp=0)


def test_what_triton_server_is_sent_and_sends() -> None:
    client = TritonClient("nowhere:1", "m")
    message = service_pb2.ModelInferRequest.FromString(
        client.encode(BenchRequest([5, 6, 7], 9), seed=3)
    )
    raw = dict(zip([t.name for t in message.inputs], message.raw_input_contents, strict=True))
    assert message.model_name == "m" and raw["stream"] == raw["ignore_eos"] == b"\1"
    assert np.frombuffer(raw["input_ids"], np.int32).tolist() == [5, 6, 7]
    assert np.frombuffer(raw["max_tokens"], np.int32).tolist() == [9]

    def response(token_ids: list[int], reason: str) -> bytes:
        found = service_pb2.ModelStreamInferResponse()
        for name, content in (
            ("text_output", (0).to_bytes(4, "little")),
            ("output_ids", np.array(token_ids, np.int32).tobytes()),
            ("sequence_index", bytes(4)),
            ("finish_reason", len(reason).to_bytes(4, "little") + reason.encode()),
        ):
            found.infer_response.outputs.add(name=name)
            found.infer_response.raw_output_contents.append(content)
        encoded: bytes = found.SerializeToString()
        return encoded

    empty = service_pb2.ModelStreamInferResponse().SerializeToString()
    chunks = [(1.0, response([1], "")), (2.0, response([2, 3], "length")), (2.1, empty)]
    assert client.decode(chunks) == Tokens([(1.0, 1), (2.0, 2)], "length")
    failed = service_pb2.ModelStreamInferResponse(error_message="no").SerializeToString()
    assert client.decode([(1.0, failed)]).error == "no"


def test_what_the_front_end_is_sent_and_sends() -> None:
    client = OpenAIClient("http://nowhere:1", "m")
    body = json.loads(client.encode(BenchRequest([5, 6, 7], 9), seed=3))
    assert (body["prompt"], body["max_tokens"], body["seed"]) == ([5, 6, 7], 9, 3)
    assert body["stream"] and body["ignore_eos"]

    def event(num_tokens: int, choices: list[dict[str, Any]]) -> bytes:
        fields = {"choices": choices, "usage": {"completion_tokens": num_tokens}}
        return b"data: " + json.dumps(fields).encode() + b"\n\n"

    text = [{"text": "a", "finish_reason": None}]
    second = event(4, [{"text": "b", "finish_reason": "length"}])
    chunks = [
        (1.0, event(1, text)),
        (2.0, second[:20]),  # cut where the network liked
        (3.0, second[20:] + event(4, []) + b"data: [DONE]\n\n"),
    ]
    found = client.decode(chunks)
    assert sum(count for _, count in found.arrivals) == 4
    assert [time for time, count in found.arrivals if count] == [1.0, 3.0]
    assert found.finish_reason == "length" and found.error is None
    failed = client.decode([(1.0, b'data: {"error": {"message": "no"}}\n\n')])
    assert failed.error == "no"


def test_histograms_are_read_from_the_page_of_metrics() -> None:
    def page(total: float, count: int) -> str:
        values = {"sum": total, "bucket": 9, "count": count}
        return "".join(
            f'# TYPE {name}_{kind} counter\n{name}_{kind}{{model="m",le="1"}} {value}\n'
            for name in HISTOGRAMS.values()
            for kind, value in values.items()
        )

    before, after = read_histograms(page(1.5, 10)), read_histograms(page(2.5, 14))
    assert before["ttft"] == (1500.0, 10.0)
    assert grown_means(before, after)["e2e"] == pytest.approx(250)
    assert grown_means(after, after) == {}


def test_what_was_measured_is_not_measured_again() -> None:
    key = {"round": 0, "side": "native", "kind": "users", "value": 16.0, "quick": False}
    assert is_measured([sample("native")], key)
    assert not is_measured([sample("native", 1)], key)
    assert not is_measured([sample("python")], key)
    assert not is_measured([sample("native", error="no")], key)
    assert not is_measured([sample("native", disturbance=0.9)], key)


def test_what_is_added_is_compared_within_rounds() -> None:
    samples = []
    for round_index, speed in enumerate((100.0, 200.0)):  # the machine changed between rounds
        for side, share, added in (("bare", 1, 0.0), ("native", 0.97, 1.5), ("python", 0.9, 3.0)):
            means = {} if side == "bare" else {"ttft": speed}
            times = {"ttft_all_mean_ms": speed + added, "server_means_ms": means}
            samples.append(sample(side, round_index, output_tok_s=share * speed, **times))
            samples.append(sample(side, round_index, kind="alone", value=1.0, **times))
    rows = [line.strip("| ").split(" | ") for line in goals(cells_of(samples))[3:]]
    assert rows[0][2:6] == ["1.5 (1.5 to 1.5)", "≤ 2.0", "yes", "1.5 (1.5 to 1.5)"]
    assert rows[0][6:] == ["3.0% (3.0% to 3.0%)", "≤ 5.0%", "yes"]
    assert [rows[1][4], rows[1][8]] == ["no", "no"]
    assert rows[2][2] == "–" and len(rows) == len(GOALS)


def test_a_limit_holds_up_to_the_first_load_at_which_it_does_not() -> None:
    cells = cells_of(
        [
            sample("native", value=1.0),
            sample("native", value=8.0),
            sample("native", value=16.0, tpots_ms=[60.0]),
            sample("native", value=32.0),
            sample("openai_native", value=16.0),
        ]
    )
    assert last_level(cells, "native", "users", lambda cell: cell.holds) == Level("users", 8.0)
    assert last_level(cells, "bare", "users", lambda cell: cell.holds) is None
    lines = limits(cells)
    assert lines[3:] == ["| gRPC, native | 8 users | 32 users |"]  # nothing of who begins at 16


def test_percentiles_are_of_the_requests_of_all_rounds() -> None:
    samples = [sample("native", r, ttfts_ms=[100.0 + r] * 10) for r in range(3)]
    (cell,) = cells_of(samples)
    assert cell.latency("ttft").count == 30 and cell.latency("ttft").p50 == 101
    assert cell.latency("itl").p50 == pytest.approx(40, abs=0.01)


def test_a_report_has_tables_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [
        sample("bare"),
        sample("native", cpu_us_per_response={"tritonserver": 60.4, "load generator": 40.0}),
        sample("native", kind="rate", value=2.0),
        sample("python", error="ended") | {"output_tok_s": 1e9},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert report(argparse.Namespace(samples=path, plot=None)) == 0
    printed = capsys.readouterr().out
    assert "### Closed loop" in printed and "### Open loop" in printed
    assert "| 16 users | gRPC, native | 18 |" in printed and "1000000000" not in printed
    assert "5.0 | 1.60, 0.10 |" in printed  # 100 ms of the client less 95 ms of the server
    assert "| 16 users | gRPC, native | 0 | 60 | 0 | 0 | 40 |" in printed
    assert path.with_suffix(".svg").read_text().count("<polyline") > 10


def test_a_panel_keeps_its_lines_within(tmp_path: Path) -> None:
    line = Line("a <side>", 0, [(0.0, 1.0, 2.0), (50.0, 10.0, 1000.0)])
    write_svg(tmp_path / "x.svg", [Panel("t", "x", [line], 500.0)])
    text = (tmp_path / "x.svg").read_text()
    points = [p.split('"')[0] for p in text.split('points="')[1:]]
    xs, ys = zip(*(map(float, pair.split(",")) for p in points for pair in p.split()), strict=True)
    assert min(xs) >= 0 and max(xs) <= 380 and min(ys) >= 0 and max(ys) <= 260
    assert "a &lt;side&gt;" in text


def test_cpu_time_of_the_runtime_is_told_apart() -> None:
    done = threading.Event()

    def compute() -> None:
        Path("/proc/thread-self/comm").write_text("enginery-worker")
        while time.thread_time() < 0.05:
            pass
        done.wait()

    server = Server.__new__(Server)
    server._process = SimpleNamespace(pid=os.getpid())  # type: ignore[assignment]
    before = server.cpu_seconds()
    thread = threading.Thread(target=compute)
    thread.start()
    while server.cpu_seconds().get(RUNTIME, 0.0) < 0.03:
        time.sleep(0.01)
    done.set()
    assert before.get(RUNTIME, 0.0) == 0.0
    thread.join()


def test_tools_are_compared_with_ours() -> None:
    def said(tool: str, ttft: float) -> dict[str, Any]:
        found = {"ttft": ttft, "itl": 20.0, "e2e": 1000.0, "output_tok_s": 50.0}
        server = {"ttft": 90.0, "itl": 20.0, "e2e": 990.0}
        return {"tool": tool, "kind": "users", "value": 8.0, "found": found, "server": server}

    lines = comparison([said("ours", 93.0), said("aiperf", 94.0), said("guidellm", 110.0)])
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines()[2:]]
    assert rows[0][2] == "93.0 (server 90.0, +3.3%)"
    assert rows[0][4:] == ["110.0 (server 90.0, +22.2%)", "no", "18.3%"]
    assert rows[1][2:] == ["20.0 (server 20.0, +0.0%)"] * 3 + ["yes", "0.0%"]
    assert rows[3][2:] == ["50.0"] * 3 + ["–", "0.0%"]
    alone = comparison([said("aiperf", 91.0)]).splitlines()[2]
    assert alone.endswith("| – | 91.0 (server 90.0, +1.1%) | – | yes | – |")


def test_loads_of_the_tools_last_about_as_long() -> None:
    assert num_requests(Level("rate", 2.0)) == 20
    assert num_requests(Level("users", 16.0)) > num_requests(Level("users", 1.0)) > 4
    assert next(iter(agree.TOOLS)) == agree.OURS
