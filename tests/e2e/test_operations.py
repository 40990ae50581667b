# SPDX-License-Identifier: Apache-2.0
"""What those see who look after a server: its log, and its end when a step hangs.

Real stalls: an executor that never ends a step, and a step thread that is stopped as a debugger
stops it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.executors import StallingExecutor
from tests.support.openai_server import Serving, serving
from tests.support.stopped_thread import stopped_thread
from tests.support.triton import (
    DEADLINE_S,
    MAX_SEQ_LEN,
    GrpcStream,
    build_lasting_engine,
    http_generate,
    metric,
    wait_until,
)

# Long enough for any step on a machine under load, short enough to wait for.
TIMEOUT_MS = 4000
BACKENDS = {
    "python": ["--executor", "tests.support.executors:stalling_executor"],
    "native": ["--backend", "native"],
}
SHORT = {"input_ids": [7, 8, 9], "max_tokens": 4, "ignore_eos": True}
PROMPT = [StallingExecutor.STALLING_TOKEN] * 20
ASKED = {"input_ids": PROMPT, "ignore_eos": True, "stream": True}
# The executor in Python has few blocks; the other one runs until it is stopped.
STALLING = {
    "python": {**ASKED, "max_tokens": 200},
    "native": {**ASKED, "max_tokens": MAX_SEQ_LEN - len(PROMPT)},
}
TEXT_FIELDS = ("event", "time", "model", "client_request_id", "finish_reason", "status", "error")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


def triton_of(server: Serving) -> Any:
    """The server as clients of Triton server take it."""
    return SimpleNamespace(http_url=server.ready["http"], grpc_url=server.ready["grpc"])


@contextlib.contextmanager
def stalled(backend: str, server: Serving) -> Iterator[GrpcStream]:
    """The server with a request whose step never ends, and one that came after it."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(GrpcStream(triton_of(server)))
        stream.submit(STALLING[backend], "stuck-1")
        stream.next()
        if backend == "native":
            stack.enter_context(stopped_thread(server.ready["pid"], "enginery-step"))
        stream.submit(SHORT, "late-2")
        yield stream


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_are_logged_and_a_step_that_hangs_ends_the_server(
    backend: str, engine: Path, tmp_path: Path
) -> None:
    flags = ["--log_requests", "--log_format=json", f"--watchdog_timeout_ms={TIMEOUT_MS}"]
    with serving(engine, *BACKENDS[backend], *flags, f"--watchdog_dir={tmp_path}") as server:
        with GrpcStream(triton_of(server)) as stream:
            stream.submit(SHORT, "chat-7")
            assert len(stream.until_last()[0]["output_ids"]) == 4
        assert http_generate(triton_of(server), {**SHORT, "temperature": -1, "id": "bad"})[0] == 400
        answered = server.client().completions.create(
            model="enginery",
            prompt=[7, 8, 9],
            max_tokens=3,
            extra_headers={"X-Request-Id": "trace-9"},
            extra_body={"ignore_eos": True},
        )
        assert answered.id == "cmpl-trace-9"
        # One token a step, and each step in the histogram that the runtime keeps.
        steps = "enginery_step_time_seconds_count"
        wait_until(lambda: metric(server.get("/metrics"), steps) == 7, "7 steps are counted")
        with stalled(backend, server):
            _, said = server.process.communicate(timeout=DEADLINE_S)
    assert server.process.returncode == 1
    lines = [json.loads(line) for line in said.splitlines()]
    check_log([line for line in lines if line["event"] == "request"])
    (file,) = tmp_path.iterdir()
    check_report([line for line in lines if line["event"] == "log"], file)
    check_state(json.loads(file.read_text()), backend)


def check_log(lines: list[dict[str, Any]]) -> None:
    by_client = {line["client_request_id"]: line for line in lines}
    assert set(by_client) == {"chat-7", "bad", "trace-9"}
    for name, num_tokens in (("chat-7", 4), ("trace-9", 3)):
        line = by_client[name]
        assert all(isinstance(value, str) == (key in TEXT_FIELDS) for key, value in line.items())
        assert (line["num_prompt_tokens"], line["num_output_tokens"]) == (3, num_tokens)
        assert (line["finish_reason"], line["status"], line["error"]) == ("length", "OK", "")
        assert 0 <= line["queue_us"] < line["ttft_us"] <= line["e2e_us"] < DEADLINE_S * 1e6
    assert by_client["bad"]["status"] == "INVALID_ARGUMENT"
    assert "temperature" in by_client["bad"]["error"]
    assert by_client["bad"]["request_id"] is None


def check_report(lines: list[dict[str, Any]], file: Path) -> None:
    told = f"watchdog_timeout_ms is {TIMEOUT_MS}: the state of the serving loop is in {file}"
    assert any("watchdog: a step has taken" in line["message"] for line in lines)
    last = lines[-1]
    assert (last["level"], last["source"]) == ("error", "enginery serve")
    # Both end at once; either may be noticed first.
    endings = ("tritonserver ended with status ", "the process that runs the model enginery died: ")
    assert last["message"].startswith(endings)
    assert last["message"].endswith(told)


def check_state(state: dict[str, Any], backend: str) -> None:
    assert state["step_age_ms"] >= state["watchdog_timeout_ms"] == TIMEOUT_MS
    assert state["engine"]["architecture"] == "LlamaForCausalLM"
    assert state["config"]["max_batch_size"] == 16
    assert [entry["client_request_id"] for entry in state["inbox"]] == ["late-2"]
    if state["stage"] == "scheduler or sampler":
        # The thread was stopped where it changes them.
        assert (backend, state["batch"]) == ("native", None)
        return
    (sequence,) = state["batch"]
    assert sequence["client_request_id"] == "stuck-1"
    if state["stage"] == "between steps":
        assert backend == "native"
        return
    assert state["stage"] == "executor"
    assert (sequence["phase"], sequence["num_prompt_tokens"]) == ("decode", 20)
    assert sequence["num_computed_tokens"] == 20 + sequence["num_output_tokens"] - 1
    num_blocks = -(-(sequence["num_computed_tokens"] + 1) // 16)
    assert len(set(sequence["block_table"])) == num_blocks
    assert state["blocks"]["num_used"] == num_blocks
    assert state["step"]["num_decode_tokens"] == 1
    assert state["queue"] == []
