# SPDX-License-Identifier: Apache-2.0
"""Starts, watches and ends the real tritonserver, from the `nvidia-pytriton` wheel."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import http.client
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .repository import Repository

LOOPBACK = "127.0.0.1"
_READY_POLL_S = 0.05
_LOG_LINES = 400
_PR_SET_PDEATHSIG = 1


class ServerError(Exception):
    """tritonserver is not installed, did not become ready, or died."""


@dataclass(frozen=True)
class ServerOptions:
    """How the server listens and ends.

    Attributes:
        address: of all three ports; loopback unless told.
        http_port: 0 chooses a free one, as for the other two.
        grpc_port: see http_port.
        metrics_port: see http_port.
        exit_timeout_s: how long requests in flight may go on after SIGTERM.
        log_verbose: Triton server's verbosity, 0: errors, warnings and milestones.
    """

    address: str = LOOPBACK
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    exit_timeout_s: int = 30
    log_verbose: int = 0


class TritonServer:
    """One tritonserver process serving one repository.

    Use as a context manager, or call `start` and `stop`. Nothing of it outlives `stop`: process, Python stubs,
    shared memory and temporary folder.

    Args:
        repository: what to serve.
        options: ports and limits.
        on_log: called with each line of the server's log, on a thread of its own; None: lines are kept for errors only.

    Raises:
        ServerError: the wheel is not installed (`start`), or a port is taken (`start`).
    """

    def __init__(
        self,
        repository: Repository,
        options: ServerOptions | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.repository = repository
        self.options = _with_free_ports(options or ServerOptions())
        self._on_log = on_log
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._log_thread: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Of the tritonserver process."""
        return self._running().pid

    @property
    def http_url(self) -> str:
        """Host and port, as `tritonclient.http` takes it."""
        return f"{self.options.address}:{self.options.http_port}"

    @property
    def grpc_url(self) -> str:
        """Host and port, as `tritonclient.grpc` takes it."""
        return f"{self.options.address}:{self.options.grpc_port}"

    @property
    def metrics_url(self) -> str:
        """Host and port of `/metrics`."""
        return f"{self.options.address}:{self.options.metrics_port}"

    def start(self, timeout_s: float = 120) -> None:
        """Starts the process and waits until the model is ready.

        Raises:
            ServerError: not ready in time, or the process ended; with what its log says.
        """
        options = self.options
        for port in (options.http_port, options.grpc_port, options.metrics_port):
            _check_port(options.address, port)
        installation = _find_tritonserver()
        self._folder = tempfile.TemporaryDirectory(prefix="enginery-triton-")
        backends = _assemble_backends(installation, Path(self._folder.name))
        environment = dict(os.environ)
        environment["LD_LIBRARY_PATH"] = ":".join(
            [str(installation.libraries), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        )
        self._process = subprocess.Popen(
            self._command(installation, backends),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: the stubs are ended with it, and a terminal's Ctrl-C reaches us alone, once.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._log_thread = threading.Thread(target=self._read_log, name="server-log", daemon=True)
        self._log_thread.start()
        try:
            self._wait_ready(time.monotonic() + timeout_s)
        except BaseException:
            self.stop(grace_s=2)
            raise

    def wait(self) -> int:
        """Waits until the process ends and returns its exit status; negative: the signal that ended it."""
        status = self._running().wait()
        self._clean_up()
        return status

    def terminate(self) -> None:
        """Asks the server to end (SIGTERM): requests in flight go on for `exit_timeout_s`."""
        with contextlib.suppress(ProcessLookupError):
            self._running().send_signal(signal.SIGTERM)

    def stop(self, grace_s: float | None = None) -> int:
        """Ends the server, by force when it takes longer than `grace_s`, and returns its exit status.

        Args:
            grace_s: None: `exit_timeout_s` and a little more.
        """
        process = self._running()
        self.terminate()
        grace_s = self.options.exit_timeout_s + 10 if grace_s is None else grace_s
        try:
            status = process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        self._clean_up()
        return status

    def log_tail(self, num_lines: int = 20) -> str:
        """The last lines of the server's log."""
        return "\n".join(list(self._log)[-num_lines:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process

    def _command(self, installation: _Installation, backends: Path) -> list[str]:
        o = self.options
        return [
            str(installation.binary),
            f"--model-repository={self.repository.path}",
            f"--backend-directory={backends}",
            f"--http-address={o.address}",
            f"--http-port={o.http_port}",
            f"--grpc-address={o.address}",
            f"--grpc-port={o.grpc_port}",
            f"--metrics-address={o.address}",
            f"--metrics-port={o.metrics_port}",
            f"--exit-timeout-secs={o.exit_timeout_s}",
            f"--log-verbose={o.log_verbose}",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix()}",
        ]

    def _shm_prefix(self) -> str:
        # Own names, so that what a killed server leaves in /dev/shm can be told from anybody else's.
        return f"enginery_{os.getpid()}_{self.options.grpc_port}_"

    def _read_log(self) -> None:
        stream = self._running().stdout
        assert stream is not None
        for line in stream:
            self._log.append(line.rstrip("\n"))
            if self._on_log is not None:
                self._on_log(line.rstrip("\n"))

    def _wait_ready(self, deadline: float) -> None:
        path = f"/v2/models/{self.repository.model_name}/ready"
        while True:
            status = self._running().poll()
            if status is not None:
                raise ServerError(f"tritonserver ended with status {status}: {self._reason()}")
            if _http_ok(self.options.address, self.options.http_port, path):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver did not become ready: {self._reason()}")
            time.sleep(_READY_POLL_S)

    def _reason(self) -> str:
        """What the log says of a failed start: the model's own error where there is one."""
        if self._log_thread is not None:
            self._log_thread.join(timeout=1)
        errors = [line for line in self._log if re.match(r"E\d{4} |error:|.*\| UNAVAILABLE", line)]
        return "\n".join(errors[-10:]) or self.log_tail() or "its log is empty"

    def _clean_up(self) -> None:
        process = self._running()
        # The stubs end by themselves with the server, unless it was killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if self._log_thread is not None:
            self._log_thread.join(timeout=2)
        for leftover in Path("/dev/shm").glob(f"{self._shm_prefix()}*"):
            leftover.unlink(missing_ok=True)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


@dataclass(frozen=True)
class _Installation:
    binary: Path
    backends: Path
    stub: Path
    libraries: Path


def _find_tritonserver() -> _Installation:
    """Where the wheel put the server, its Python backend and the stub for this Python."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError("tritonserver is not installed; pip install 'enginery[serve]' brings it")
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = _Installation(
        binary=root / "bin" / "tritonserver",
        backends=root / "backends",
        stub=root / "python_backend_stubs" / version / "triton_python_backend_stub",
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    for path in (found.binary, found.backends, found.stub, found.libraries):
        if not path.exists():
            raise ServerError(
                f"nvidia-pytriton is installed, but {path} is not there; reinstall nvidia-pytriton==0.7.0"
            )
    return found


def _assemble_backends(installation: _Installation, folder: Path) -> Path:
    """A backend directory with the stub of this Python in it; the wheel keeps the two apart."""
    backends = folder / "backends"
    shutil.copytree(installation.backends / "python", backends / "python")
    shutil.copy2(installation.stub, backends / "python" / "triton_python_backend_stub")
    return backends


def _with_free_ports(options: ServerOptions) -> ServerOptions:
    names = [n for n in ("http_port", "grpc_port", "metrics_port") if getattr(options, n) == 0]
    sockets = [socket.socket() for _ in names]
    try:
        for each in sockets:  # all bound at once, so that no port is chosen twice
            each.bind((options.address, 0))
        ports = {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    finally:
        for each in sockets:
            each.close()
    return ServerOptions(**{**options.__dict__, **ports})


def _check_port(address: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ServerError(
                f"port {port} on {address}: {error.strerror}; choose another, or 0 for a free one"
            ) from None


def _http_ok(address: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _end_with_parent() -> None:
    """In the child, before exec: SIGTERM when the process that started it dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
