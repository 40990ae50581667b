# SPDX-License-Identifier: Apache-2.0
"""Files, disks, ports and processes that fail `build-engine` and `enginery serve`, and say why."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.metric_families import GAUGE, TIMESTAMP
from enginery.triton_backend.native_backend import NativeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import ServerOptions, TritonServer
from tests.support.hostile_clients import http_post
from tests.support.metrics_page import Page
from tests.support.triton import (
    DEADLINE_S,
    LASTING,
    MODEL,
    build_lasting_engine,
    http_generate,
    http_socket,
    http_stream,
    metrics,
    num_active,
    wait_until,
)

SERVE = [sys.executable, "-m", "enginery.cli.main", "serve"]
BUILD = [sys.executable, "-m", "enginery.cli.main", "build"]
FREE = [f"--{name}_port=0" for name in ("http", "grpc", "metrics")]
HEADER_BYTES = 64


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def server(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One whose model may be unloaded and loaded; each test leaves it loaded."""
    with reloadable(engine, tmp_path_factory.mktemp("repository"), "native") as running:
        yield running


def reloadable(engine: Path, folder: Path, backend: str) -> TritonServer:
    model = ModelOptions(str(engine), runtime=RuntimeOptions(kv_cache_bytes=1 << 30))
    options = NativeOptions(model) if backend == "native" else model
    ports = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, can_reload=True)
    return TritonServer(write_repository(folder, options, MODEL), ports)


def ask_repository(server: TritonServer, action: str) -> tuple[int, bytes]:
    return http_post(server, b"{}", f"/v2/repository/models/{MODEL}/{action}")


def assert_serves(server: TritonServer) -> None:
    assert http_generate(server, {"input_ids": [1], "max_tokens": 8, "ignore_eos": True})[0] == 200


def run(command: list[str], **options: Any) -> tuple[int, str]:
    """Exit status and standard error of a command that ends by itself."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, **options)
    return done.returncode, done.stderr


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _damage_header(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(HEADER_BYTES // 2)
        opened.write(struct.pack("<Q", 2**63))


def _replace(file: Path) -> None:
    file.write_bytes(b"#!/bin/sh\n" * 1000)


@pytest.mark.parametrize(
    "damage", [_truncate, _empty, _damage_header, _replace, Path.unlink], ids=lambda f: f.__name__
)
def test_damaged_engine_starts_no_server(
    damage: Callable[[Path], None], engine: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "engine"
    shutil.copytree(engine, damaged)
    damage(damaged / "rank0.engine")
    status, said = run([*SERVE, str(damaged), *FREE])
    assert status == 2
    assert str(damaged) in said
    assert "Traceback" not in said
    assert "tritonserver" not in said


def test_two_servers_on_one_port(engine: Path, server: TritonServer) -> None:
    for name, url in (("http", server.http_url), ("grpc", server.grpc_url)):
        port = url.split(":")[1]
        status, said = run([*SERVE, str(engine), *FREE, f"--{name}_port={port}"])
        assert status == 2
        assert f"port {port} on 127.0.0.1: Address already in use; choose another" in said
    assert http_generate(server, {"input_ids": [1]})[0] == 200


@pytest.mark.parametrize("limit", [0, 4096, 1 << 18])
def test_disk_that_is_full_leaves_no_engine(limit: int, engine: Path, tmp_path: Path) -> None:
    def limit_files() -> None:
        # As a full disk does, each write beyond it fails; the signal would end the process first.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    output = tmp_path / "engine"
    checkpoint = engine.parent / "checkpoint"
    command = [*BUILD, "--checkpoint_dir", str(checkpoint), "--output_dir", str(output)]
    environment = {**os.environ, "ENGINERY_CACHE_DIR": str(tmp_path / "cache")}
    status, said = run(command, preexec_fn=limit_files, env=environment)
    assert status not in (0, -signal.SIGXFSZ)
    assert "File too large" in said
    assert "Traceback" not in said
    assert not output.exists()
    assert not list(tmp_path.glob(".engine.partial-*"))


@pytest.mark.parametrize(
    ("sent", "ending"),
    [(signal.SIGKILL, "tritonserver ended with status -9\n"),
     (signal.SIGSEGV, ", after signal 11\n")],
)  # fmt: skip
def test_native_server_that_dies_is_told(sent: signal.Signals, ending: str, engine: Path) -> None:
    with subprocess.Popen(
        [*SERVE, str(engine), "--backend", "native", "--kv_cache_bytes", str(1 << 28), *FREE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            pid = json.loads(process.stdout.readline())["pid"]
            os.kill(pid, sent)
            _, said = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "enginery serve: error: tritonserver ended with status " in said
    assert said.endswith(ending)


class Asking(threading.Thread):
    """A client that asks again and again, and keeps what it was answered."""

    def __init__(self, server: TritonServer) -> None:
        super().__init__()
        self.answers: list[tuple[int, Any]] = []
        self.stops = threading.Event()
        self._server = server

    def run(self) -> None:
        request = {"input_ids": [5], "max_tokens": 30, "ignore_eos": True, "seed": 2}
        while not self.stops.is_set():
            self.answers.append(http_generate(self._server, request))


def test_reload_under_load_answers_or_refuses_everyone(server: TritonServer) -> None:
    clients = [Asking(server) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            client.start()
            stack.callback(client.join)
            stack.callback(client.stops.set)
        for _ in range(3):
            assert ask_repository(server, "unload")[0] == 200
            assert ask_repository(server, "load")[0] == 200
            # tritonserver 2.51 falls when a model is unloaded in the moment in which it was loaded.
            assert_serves(server)
    served = [answer["output_ids"] for client in clients for status, answer in client.answers
              if status == 200]  # fmt: skip
    refused = [answer["error"] for client in clients for status, answer in client.answers
               if status != 200]  # fmt: skip
    assert served
    assert all(answer == served[0] for answer in served)
    assert all("not ready" in error or "unloaded" in error or "no longer" in error or
               "no available versions" in error or "not found" in error
               for error in refused), refused  # fmt: skip
    assert http_generate(server, {"input_ids": [1]})[0] == 200


SLOW_MODEL = """
import time


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(3)

    def execute(self, requests):
        return []
"""
SLOW_CONFIG = """
backend: "python"
input [{ name: "i", data_type: TYPE_INT32, dims: [1] }]
output [{ name: "o", data_type: TYPE_INT32, dims: [1] }]
"""


@pytest.mark.parametrize("backend", ["native", "python"])
def test_streams_are_whole_while_their_thread_loads_a_model(
    backend: str, engine: Path, tmp_path: Path
) -> None:
    """tritonserver loads in one of its eight HTTP threads, which have a stream each."""
    num_tokens = 4000
    request = {"input_ids": [5], "max_tokens": num_tokens, "ignore_eos": True, "stream": True}
    with reloadable(engine, tmp_path, backend) as server:
        model = server.repository.path / "slow"
        (model / "1").mkdir(parents=True)
        (model / "1" / "model.py").write_text(SLOW_MODEL)
        (model / "config.pbtxt").write_text(SLOW_CONFIG)
        with ThreadPoolExecutor(8) as pool:
            streams = [pool.submit(http_stream, server, request) for _ in range(8)]
            wait_until(lambda: num_active(server) == len(streams), "all are asked")
            assert http_post(server, b"{}", "/v2/repository/models/slow/load")[0] == 200
            for stream in streams:
                events = stream.result()
                assert sum(len(event["output_ids"]) for event in events) == num_tokens
        assert_serves(server)


def test_many_reloads_that_wait_for_nothing(server: TritonServer) -> None:
    """The old instance ends while the new one starts."""
    for _ in range(60):
        assert ask_repository(server, "unload")[0] == 200
        assert ask_repository(server, "load")[0] == 200
        assert_serves(server)


@pytest.mark.parametrize("backend", ["native", "python"])
def test_metrics_outlive_an_unload(backend: str, engine: Path, tmp_path: Path) -> None:
    def page(server: TritonServer) -> Page:
        with contextlib.closing(http.client.HTTPConnection(server.metrics_url)) as connection:
            connection.request("GET", "/metrics")
            return Page(connection.getresponse().read().decode(), MODEL)

    def index(server: TritonServer) -> str:
        (entry,) = json.loads(http_post(server, b"{}", "/v2/repository/index")[1])
        return str(entry["state"])

    with reloadable(engine, tmp_path, backend) as server:
        for num_loads in (1, 2, 3):
            assert_serves(server)
            loaded = Page(metrics(server), MODEL)
            loaded.assert_is_the_table()
            assert loaded.value("nv_trt_llm_request_metrics", request_type="max") == 16
            blocks = "nv_trt_llm_kv_cache_block_metrics"
            assert loaded.value(blocks, kv_cache_block_type="max") > 0
            assert loaded.value("enginery_requests_finished_total") == num_loads
            assert loaded.value("enginery_generation_tokens_total") == 8 * num_loads
            assert ask_repository(server, "unload")[0] == 200
            wait_until(lambda: index(server) == "UNAVAILABLE", "the model is unloaded")
            unloaded = page(server)
            unloaded.assert_is_the_table()
            assert not unloaded.grown(loaded)
            gauges = {
                key: value for key, value in unloaded.samples.items()
                if unloaded.kinds[key[0]] == GAUGE and key[0] != TIMESTAMP
            }  # fmt: skip
            assert gauges == dict.fromkeys(gauges, 0)
            assert ask_repository(server, "load")[0] == 200


@pytest.mark.parametrize("damage", [_truncate, _damage_header, Path.unlink])
def test_engine_that_is_damaged_while_unloaded(
    damage: Callable[[Path], None], engine: Path, server: TritonServer, tmp_path: Path
) -> None:
    file, sound, broken = engine / "rank0.engine", tmp_path / "sound", tmp_path / "broken"
    damage(Path(shutil.copy2(file, broken)))
    assert ask_repository(server, "unload")[0] == 200
    file.rename(sound)
    try:
        if broken.exists():
            broken.rename(file)
        status, answer = ask_repository(server, "load")
    finally:
        sound.rename(file)
    assert status >= 400
    assert str(file) in json.loads(answer)["error"]
    assert ask_repository(server, "load")[0] == 200
    assert http_generate(server, {"input_ids": [1]})[0] == 200


@pytest.mark.slow
def test_clients_that_leave_during_an_unload(server: TritonServer) -> None:
    streams = [http_socket(server, {**LASTING, "stream": True}) for _ in range(8)]
    for stream in streams:
        assert stream.recv(1 << 16)
    unloading = threading.Thread(target=ask_repository, args=(server, "unload"))
    unloading.start()
    for stream in streams:
        stream.close()
    unloading.join()
    assert ask_repository(server, "load")[0] == 200
    assert http_generate(server, {"input_ids": [1]})[0] == 200
