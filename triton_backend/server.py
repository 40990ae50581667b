# SPDX-License-Identifier: Apache-2.0
"""Starts, watches and ends the real tritonserver."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import http.client
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import ServerError
from .installation import Installation, find_tritonserver
from .leftovers import leftover_prefix, remove_leftovers, remove_stale_leftovers
from .metrics import REQUESTS, read_gauge
from .native_backend import BACKEND_LIBRARY, native_backend_files
from .ports import choose_ports
from .repository import Repository

LOOPBACK = "127.0.0.1"

_POLL_S = 0.05
_LOG_LINES = 400
# What tritonserver may take to end when nothing is in flight any more; it waits for clients to
# close connections, even those on which nothing happens.
_EXIT_S = 6
# Longer than that, so that it does not give up with an error of its own first.
_OWN_EXIT_TIMEOUT_S = 10
_PR_SET_PDEATHSIG = 1
# What the model's watchdog said before it ended the server.
_STALL = re.compile(r"watchdog: (.*?)\"?$")
# What tritonserver says when it crashed (SIGABRT, SIGSEGV), before it shows its stack. For that it
# takes locks that it may hold already, and then stands still: nobody is answered, nothing ends.
_CRASH = re.compile(r"Signal \((6|11)\) received\.")
_CRASH_S = 10
# What the model's own code raised, without the stack that follows.
_MODEL_ERROR = re.compile(r"Failed to create instance: (.*?)(?:(?:\\n)+At:\\n.*)?\"?$")


@dataclass(frozen=True)
class ServerOptions:
    """How the server listens and ends.

    Attributes:
        address: of all three ports; loopback unless told.
        http_port: 0 chooses a free one, as for the other two.
        grpc_port: see http_port.
        metrics_port: see http_port.
        exit_timeout_s: how long requests in flight may go on when the server is stopped.
        log_verbose: 0: errors and warnings; 1: milestones too; more: as `--log-verbose`.
        can_reload: whether clients may unload the model and load it again.
    """

    address: str = LOOPBACK
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    exit_timeout_s: float = 30
    log_verbose: int = 0
    can_reload: bool = False


class TritonServer:
    """One tritonserver process serving one repository.

    Use as a context manager, or call `start` and `stop`. Nothing of it outlives `stop`: process,
    stub, shared memory, temporary folder. When the process that started it is killed, the server
    is killed with it, and the next start removes what it left.

    Args:
        repository: what to serve.
        options: ports and limits.
        on_log: called with each line of the server's log, on a thread of its own; None: the last
            lines are kept for errors and that is all.
    """

    def __init__(
        self,
        repository: Repository,
        options: ServerOptions | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.repository = repository
        self.options = options or ServerOptions()
        self._ports = [0, 0, 0]
        self._on_log = on_log
        self._log: collections.deque[str] = collections.deque(maxlen=_LOG_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._prefix = ""
        self._stubs: dict[int, str] = {}
        self._log_thread: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """Of the tritonserver process."""
        return self._started().pid

    @property
    def http_url(self) -> str:
        """Host and port, as `tritonclient.http` takes it; known when started."""
        return f"{self.options.address}:{self._ports[0]}"

    @property
    def grpc_url(self) -> str:
        """Host and port, as `tritonclient.grpc` takes it; known when started."""
        return f"{self.options.address}:{self._ports[1]}"

    @property
    def metrics_url(self) -> str:
        """Host and port of `/metrics`; known when started."""
        return f"{self.options.address}:{self._ports[2]}"

    def start(self, timeout_s: float = 120) -> None:
        """Starts the process and waits until the model is ready.

        The calling thread must live as long as the server: Linux ends the server with it.

        Raises:
            ServerError: not installed, a port is taken, not ready in time, or the process ended;
                with what its log says.
        """
        options = self.options
        wanted = [options.http_port, options.grpc_port, options.metrics_port]
        installation = find_tritonserver()
        remove_stale_leftovers()
        self._ports = choose_ports(options.address, wanted)
        self._log.clear()
        # The port tells this server from others that this process starts.
        self._prefix = f"{leftover_prefix()}{self._ports[0]}-"
        try:
            self._launch(installation)
            self._wait_ready(time.monotonic() + timeout_s)
            self._stubs = _stubs(self.pid)
        except BaseException:
            self.kill()
            raise

    def wait(self, others: Mapping[int, str] | None = None) -> str:
        """Waits until the server breaks and returns how; call `kill` after it.

        Triton server goes on saying "ready" when the process of a Python model has died, and
        answers nobody who needs that model, so all of them are watched as well.

        Args:
            others: processes whose end is one of the server too, and what is returned then.
        """
        process = self._started()
        poll = select.poll()
        names: dict[int, str] = {}
        reasons: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(ProcessLookupError))  # gone before we waited
            for pid in (process.pid, *self._stubs, *(others or {})):
                descriptor = os.pidfd_open(pid)
                stack.callback(os.close, descriptor)
                poll.register(descriptor, select.POLLIN)
                if pid in self._stubs:
                    names[descriptor] = self._stubs[pid]
                if others is not None and pid in others:
                    reasons[descriptor] = others[pid]
            ended = [descriptor for descriptor, _ in poll.poll()]
            if all(descriptor in reasons for descriptor in ended):
                return reasons[ended[0]]
        status = process.poll()
        ending = f"tritonserver ended with status {status}"
        if status is None:
            died = ", ".join(names[descriptor] for descriptor in ended if descriptor in names)
            ending = f"the process that runs the model {died} died"
        log = self._whole_log()
        if crashes := [found for line in log if (found := _CRASH.match(line))]:
            ending += f", after signal {crashes[0].group(1)}"
        stalls = [found.group(1) for line in log if (found := _STALL.search(line))]
        return f"{ending}: {stalls[-1]}" if stalls else ending

    def stop(self) -> None:
        """Lets requests in flight end, for at most `exit_timeout_s`, and then ends the server.

        Requests that come meanwhile are served. What is in flight when time is up gets no further
        response. Harmless when the server has ended.
        """
        if self._process is None:
            return
        deadline = time.monotonic() + self.options.exit_timeout_s
        while time.monotonic() < deadline and self._num_active_requests():
            time.sleep(_POLL_S)
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_S)
        self.kill()

    def kill(self) -> None:
        """Ends the server at once and removes what it leaves; harmless when it has ended."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._log_thread is not None:
            self._log_thread.join(timeout=2)
        if self._prefix:
            remove_leftovers(self._prefix)

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

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process

    def _launch(self, installation: Installation) -> None:
        if self.repository.is_native and native_backend_files() is None:
            raise ServerError(
                f"{BACKEND_LIBRARY} is not installed; build it with `pip install .` in the source "
                "tree, or serve with the Python backend"
            )
        folder = Path(tempfile.mkdtemp(prefix=self._prefix))
        installation.assemble_backends(folder / "backends")
        self._process = subprocess.Popen(
            self._command(installation.binary, folder / "backends"),
            env=installation.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own: the stub is ended with it, and Ctrl-C reaches us alone, once.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._log_thread = threading.Thread(
            target=self._read_log, args=(self._process,), name="server-log", daemon=True
        )
        self._log_thread.start()

    def _command(self, binary: Path, backends: Path) -> list[str]:
        options = self.options
        flags = {
            "model-repository": self.repository.path,
            "backend-directory": backends,
            "http-address": options.address,
            "http-port": self._ports[0],
            "grpc-address": options.address,
            "grpc-port": self._ports[1],
            "metrics-address": options.address,
            "metrics-port": self._ports[2],
            "exit-timeout-secs": _OWN_EXIT_TIMEOUT_S,
            "log-info": str(options.log_verbose > 0).lower(),
            "log-verbose": max(0, options.log_verbose - 1),
            "pinned-memory-pool-byte-size": 0,
            "allow-gpu-metrics": str(Path("/dev/nvidiactl").exists()).lower(),
            "backend-config": f"python,shm-region-prefix-name={self._prefix}",
        }
        if options.can_reload:
            flags |= {"model-control-mode": "explicit", "load-model": "*"}
        # config.pbtxt is complete: Triton server need not start the model once more to ask it.
        switch = "--disable-auto-complete-config"
        return [str(binary), switch, *(f"--{name}={value}" for name, value in flags.items())]

    def _read_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                self._log.append(line.rstrip("\n"))
                if _CRASH.match(line):
                    end = threading.Timer(_CRASH_S, process.kill)
                    end.daemon = True
                    end.start()
                if self._on_log is not None:
                    self._on_log(line.rstrip("\n"))

    def _wait_ready(self, deadline: float) -> None:
        pages = {
            self.http_url: f"/v2/models/{self.repository.model_name}/ready",
            self.metrics_url: "/metrics",
        }
        while not all(_get(url, path) is not None for url, path in pages.items()):
            status = self._started().poll()
            if status is not None:
                raise ServerError(f"tritonserver ended with status {status}: {self._reason()}")
            if time.monotonic() > deadline:
                raise ServerError(f"tritonserver did not become ready: {self._reason()}")
            time.sleep(_POLL_S)

    def _reason(self) -> str:
        """What the log says of a failed start: the model's own error where there is one."""
        for line in self._whole_log():
            if found := _MODEL_ERROR.search(line):
                # The server escapes the quotes and line breaks of what it repeats.
                return found.group(1).replace('\\"', '"').replace("\\n", "\n")
        errors = [line for line in self._log if re.match(r"E\d{4} |error:|.*\| UNAVAILABLE", line)]
        return "\n".join(errors[-10:]) or self.log_tail() or "its log is empty"

    def _whole_log(self) -> list[str]:
        """Of a server that has ended, with what it wrote last."""
        if self._log_thread is not None:
            self._log_thread.join(timeout=1)
        return list(self._log)

    def _num_active_requests(self) -> float:
        text = _get(self.metrics_url, "/metrics")
        return (read_gauge(text, REQUESTS, "active") if text else None) or 0


def _get(url: str, path: str) -> str | None:
    """The body of a page; None when there is no server or it answers otherwise than 200."""
    connection = http.client.HTTPConnection(url, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode("utf-8", "replace")
        return body if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _stubs(pid: int) -> dict[int, str]:
    """Processes that tritonserver, any thread of it, has started, and the model of each."""
    tasks = Path(f"/proc/{pid}/task")
    children = [child for path in tasks.glob("*/children") for child in path.read_text().split()]
    return {int(child): _model_of(child) for child in children}


def _model_of(stub: str) -> str:
    """The name of the model whose code a process runs: NAME/VERSION/model.py is its argument."""
    arguments: list[str] = []
    with contextlib.suppress(OSError):  # it has ended meanwhile
        arguments = Path(f"/proc/{stub}/cmdline").read_text().split("\0")
    paths = [Path(each) for each in arguments if each.endswith("/model.py")]
    return paths[0].parent.parent.name if paths else f"of process {stub}"


def _end_with_parent() -> None:
    """In the child, before exec: SIGKILL when whoever started it dies, however that happens.

    SIGTERM would not do: tritonserver can wait for its clients for ever.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
