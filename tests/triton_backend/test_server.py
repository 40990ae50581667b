# SPDX-License-Identifier: Apache-2.0
"""What surrounds tritonserver: ports, leftovers, its installation, and starts that fail."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.triton_backend.errors import ServerError
from enginery.triton_backend.installation import find_tritonserver
from enginery.triton_backend.leftovers import (
    leftover_prefix,
    remove_leftovers,
    remove_stale_leftovers,
)
from enginery.triton_backend.ports import choose_ports
from enginery.triton_backend.repository import Repository
from enginery.triton_backend.server import ServerOptions, TritonServer

LOOPBACK = "127.0.0.1"
FREE_PORTS = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
FOLDERS = (Path("/dev/shm"), Path(tempfile.gettempdir()))


def test_free_ports_differ() -> None:
    ports = choose_ports(LOOPBACK, [0, 0, 0])
    assert len(set(ports)) == 3
    assert choose_ports(LOOPBACK, ports) == ports


@pytest.mark.parametrize("port", [-1, 65536, 2**40])
def test_port_out_of_range(port: int) -> None:
    with pytest.raises(ServerError, match=f"port {port} on {LOOPBACK}: is not 0 .. 65535"):
        choose_ports(LOOPBACK, [0, port])


def test_port_in_use() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"port {port} on {LOOPBACK}: Address already in use"):
            choose_ports(LOOPBACK, [0, port])
    assert choose_ports(LOOPBACK, [port]) == [port]


def test_same_port_twice() -> None:
    (port,) = choose_ports(LOOPBACK, [0])
    with pytest.raises(ServerError, match=f"port {port} on {LOOPBACK}: Address already in use"):
        choose_ports(LOOPBACK, [port, port])


@pytest.fixture
def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.fixture
def names(dead_pid: int) -> Iterator[dict[str, str]]:
    """Prefixes of a process that is gone, one that lives, and one of another namespace."""
    mark = uuid.uuid4().hex
    own = leftover_prefix()
    namespace = own.split("-")[2]
    found = {
        "gone": own.replace(f"-{os.getpid()}-", f"-{dead_pid}-") + mark,
        "living": own + mark,
        "elsewhere": own.replace(namespace, "1").replace(f"-{os.getpid()}-", f"-{dead_pid}-")
        + mark,
    }
    for name in found.values():
        (FOLDERS[0] / name).write_bytes(b"x")
        (FOLDERS[1] / name / "backends").mkdir(parents=True)
    yield found
    for name in found.values():
        remove_leftovers(name)


def exists(name: str) -> list[bool]:
    return [(folder / name).exists() for folder in FOLDERS]


def test_only_leftovers_of_the_dead_are_stale(names: dict[str, str]) -> None:
    remove_stale_leftovers()
    assert exists(names["gone"]) == [False, False]
    assert exists(names["living"]) == [True, True]
    assert exists(names["elsewhere"]) == [True, True]


def test_leftovers_of_one_server(names: dict[str, str]) -> None:
    remove_leftovers(names["living"])
    assert exists(names["living"]) == [False, False]
    assert exists(names["elsewhere"]) == [True, True]


def test_backends_have_the_stub_of_this_python(tmp_path: Path) -> None:
    installation = find_tritonserver()
    installation.assemble_backends(tmp_path / "backends")
    names = {path.name for path in (tmp_path / "backends" / "python").iterdir()}
    needed = {"libtriton_python.so", "triton_python_backend_stub", "triton_python_backend_utils.py"}
    assert needed <= names
    stub = (tmp_path / "backends" / "python" / "triton_python_backend_stub").resolve()
    assert stub.parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    libraries = installation.environment()["LD_LIBRARY_PATH"].split(":")
    assert Path(libraries[0]).name == "nvidia_pytriton.libs"


def test_http_queue_is_preloaded_beside_what_is_preloaded_already(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "libown.so")
    environment = find_tritonserver().environment()
    own, queue = environment["LD_PRELOAD"].split(":")
    assert own == "libown.so"
    folders = environment["LD_LIBRARY_PATH"].split(":")
    assert any((Path(folder) / queue).is_file() for folder in folders)


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numpy.__version__", "2.1.0")
    with pytest.raises(ServerError, match=r"numpy 2\.1\.0"):
        find_tritonserver()


def test_server_that_stands_still_while_it_crashes_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "print('Signal (11) received.', flush=True); import time; time.sleep(600)"
    monkeypatch.setattr(TritonServer, "_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr("enginery.triton_backend.server._CRASH_S", 0.1)
    server = TritonServer(Repository(tmp_path, "m"), FREE_PORTS)
    with pytest.raises(ServerError, match="ended with status -9: Signal \\(11\\) received"):
        server.start()


def test_model_that_cannot_be_loaded_is_told_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("""raise RuntimeError('the engine is "on fire"')\n""")
    config = 'name: "broken"\nbackend: "python"\nmax_batch_size: 0\n'
    tensor = ' { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    (folder.parent / "config.pbtxt").write_text(f"{config}input{tensor}output{tensor}")
    server = TritonServer(Repository(tmp_path, "broken"), FREE_PORTS)
    with pytest.raises(ServerError, match=r'status 1: .*the engine is "on fire"$'):
        server.start()
    assert not [path for f in FOLDERS for path in f.glob(f"{leftover_prefix()}*")]
    server.stop()  # harmless
    with pytest.raises(ServerError, match="was not started"):
        server.wait()
