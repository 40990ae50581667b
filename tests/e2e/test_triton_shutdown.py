# SPDX-License-Identifier: Apache-2.0
"""`enginery serve` ends when told, when killed and when broken, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.triton import (
    DEADLINE_S,
    LASTING,
    MAX_SEQ_LEN,
    GrpcStream,
    build_lasting_engine,
    grpc_stream,
    wait_until,
)
from tests.support.trtllm import Failed, Stream

REQUEST = {"input_ids": [3], "max_tokens": 2000, "ignore_eos": True, "stream": True}
SERVE = [sys.executable, "-m", "enginery.cli.main", "serve"]
PORTS = ("http", "grpc", "metrics")


class Served:
    """A running `enginery serve` and what it said when it was ready."""

    def __init__(self, engine: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [*SERVE, str(engine), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        ready = json.loads(line)
        self.pid: int = ready["pid"]
        self.addresses = {name: ready[name].split("/")[0] for name in PORTS}

    @property
    def client_view(self) -> Any:
        """What the clients in tests.support.triton need of a server."""
        return SimpleNamespace(grpc_url=self.addresses["grpc"], http_url=self.addresses["http"])

    def ended(self) -> tuple[int, str]:
        """Waits for the end; returns the exit status and what was said on standard error."""
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said

    def members(self) -> list[int]:
        """Processes of tritonserver's group that live: itself and the stub."""
        return [pid for pid in living() if group_of(pid) == self.pid]

    def assert_nothing_left(self) -> None:
        wait_until(lambda: not self.members(), "tritonserver and its stub are gone")
        for name, address in self.addresses.items():
            host, port = address.split(":")
            with socket.socket() as probe:
                assert probe.connect_ex((host, int(port))) != 0, f"{name} port is open"
        assert not self.leftovers()

    def leftovers(self) -> list[Path]:
        """Shared memory and folders under the name of the process that ran the command."""
        folders = (Path("/dev/shm"), Path(tempfile.gettempdir()))
        pattern = f"enginery-triton-*-{self.process.pid}-*"
        return [path for folder in folders for path in folder.glob(pattern)]


def living() -> list[int]:
    """Processes that are not zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found.append(int(folder.name))
    return found


def group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


@contextlib.contextmanager
def served(engine: Path, *options: str) -> Iterator[Served]:
    running = Served(engine, *(f"--{name}_port=0" for name in PORTS), *options)
    try:
        yield running
    finally:
        running.process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


@contextlib.contextmanager
def load(running: Served, request: dict[str, Any], count: int = 6) -> Iterator[list[GrpcStream]]:
    """So many clients with a request each, of which every one has had its first tokens."""
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(GrpcStream(running.client_view)) for _ in range(count)]
        for stream in streams:
            stream.submit(request)
        for stream in streams:
            assert stream.next()["output_ids"]
        yield streams


def test_sigterm_lets_requests_in_flight_end(engine: Path) -> None:
    with served(engine) as running:
        with load(running, REQUEST) as streams:
            running.process.send_signal(signal.SIGTERM)
            for stream in streams:
                assert stream.until_last()[-1]["finish_reason"] == "length"
        status, said = running.ended()
        assert (status, said) == (0, "")
        running.assert_nothing_left()


def test_sigint_ends_an_idle_server(engine: Path) -> None:
    with served(engine) as running:
        assert len(running.members()) == 2
        assert running.leftovers()
        running.process.send_signal(signal.SIGINT)
        assert running.ended() == (0, "")
        running.assert_nothing_left()


def test_sigterm_does_not_wait_for_ever(engine: Path) -> None:
    with served(engine, "--exit_timeout", "0.5") as running:
        with load(running, {**LASTING, "stream": True}):
            running.process.send_signal(signal.SIGTERM)
            status, _ = running.ended()
            assert status == 0
        running.assert_nothing_left()


def test_second_signal_ends_at_once(engine: Path) -> None:
    options = ("--exit_timeout", str(100 * DEADLINE_S))
    with served(engine, *options) as running, load(running, {**LASTING, "stream": True}):
        running.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(0.5)
        running.process.send_signal(signal.SIGTERM)
        status, _ = running.ended()
        assert status == 0
        running.assert_nothing_left()


def test_killed_under_load_and_started_again(engine: Path) -> None:
    with served(engine) as running:
        (expected,) = grpc_stream(running.client_view, {**REQUEST, "stream": False})
        with load(running, {**LASTING, "stream": True}):
            running.process.kill()
            running.process.wait()
            wait_until(lambda: not running.members(), "tritonserver ends with its parent")
    ports = [f"--{name}_port={running.addresses[name].split(':')[1]}" for name in PORTS]
    again = Served(engine, *ports)
    try:
        assert not running.leftovers()
        (found,) = grpc_stream(again.client_view, {**REQUEST, "stream": False})
        assert found["output_ids"] == expected["output_ids"]
        again.process.terminate()
        assert again.ended()[0] == 0
        again.assert_nothing_left()
    finally:
        again.process.kill()


@pytest.mark.parametrize("which", ["tritonserver", "stub"])
def test_death_under_load_is_told(which: str, engine: Path) -> None:
    reasons = {
        "tritonserver": "tritonserver ended with status -9",
        "stub": "the process that runs the model enginery died",
    }
    with served(engine) as running:
        (stub,) = [pid for pid in running.members() if pid != running.pid]
        with load(running, {**LASTING, "stream": True}):
            os.kill({"tritonserver": running.pid, "stub": stub}[which], signal.SIGKILL)
            status, said = running.ended()
        assert status == 1
        assert f"enginery serve: error: {reasons[which]}" in said
        running.assert_nothing_left()


@pytest.mark.parametrize(
    ("backend", "model"),
    [("native", "preprocessing"), ("native", "postprocessing"),
     ("python", "tensorrt_llm"), ("python", "tensorrt_llm_bls")],
)  # fmt: skip
def test_death_of_one_model_of_several_is_told(backend: str, model: str, engine: Path) -> None:
    text = {"text_input": "In the", "max_tokens": MAX_SEQ_LEN - 100, "stream": True, "end_id": -1}
    with served(engine, "--layout", "tensorrt_llm", "--backend", backend) as running:
        (stub,) = [
            pid for pid in running.members()
            if f"/{model}/1/model.py" in Path(f"/proc/{pid}/cmdline").read_text()
        ]  # fmt: skip
        with contextlib.ExitStack() as stack:
            streams = [
                stack.enter_context(Stream(running.client_view, asked))
                for asked in ("ensemble", "tensorrt_llm_bls")
            ]
            for stream in streams:
                stream.submit(text)
            for stream in streams:
                stream.next()
            os.kill(stub, signal.SIGKILL)
            status, said = running.ended()
            for stream in streams:  # nobody is left waiting
                with pytest.raises(Failed):
                    stream.until_last()
        assert status == 1
        assert f"enginery serve: error: the process that runs the model {model} died" in said
        running.assert_nothing_left()


def run_serve(*args: str) -> tuple[int, str, str]:
    done = subprocess.run([*SERVE, *args], capture_output=True, text=True, timeout=DEADLINE_S)
    return done.returncode, done.stdout, done.stderr


def test_no_engine(tmp_path: Path) -> None:
    status, _, said = run_serve(str(tmp_path / "none"))
    assert status == 2
    assert str(tmp_path / "none") in said
    assert "Traceback" not in said


def test_limits_that_the_engine_lacks(engine: Path) -> None:
    status, _, said = run_serve(str(engine), "--max_batch_size", "17", "--http_port", "0",
                                "--grpc_port", "0", "--metrics_port", "0")  # fmt: skip
    assert status == 2
    assert "max_batch_size" in said
    assert "17" in said


def test_port_that_is_taken(engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, said = run_serve(str(engine), "--http_port", str(port))
    assert status == 2
    assert f"port {port} on 127.0.0.1: Address already in use" in said


def test_dry_run_writes_and_checks_the_repository(engine: Path, tmp_path: Path) -> None:
    status, printed, _ = run_serve(
        str(engine), "--model-repository", str(tmp_path), "--model_name", "llm", "--dry_run"
    )
    assert status == 0
    assert printed == (tmp_path / "llm" / "config.pbtxt").read_text()
    assert (tmp_path / "llm" / "1" / "model.py").is_file()
