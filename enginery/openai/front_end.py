# SPDX-License-Identifier: Apache-2.0
"""Starts and ends the front end's process from the process that runs Triton server."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from enginery.triton_backend.errors import ServerError

from .options import FrontEndOptions

_KILL_AFTER_S = 5
_NEEDED = ("fastapi", "uvicorn", "httptools", "hpack", "prometheus_client", "tritonclient")
_NEEDED_BY_TRACES = (
    "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry.exporter.otlp.proto.grpc",
)  # fmt: skip


def check_installed(*, traces: bool = False) -> None:
    """Refuses to start without what the process needs.

    Args:
        traces: whether it sends any.

    Raises:
        ServerError: names what is missing and the extra that has it.
    """
    _check_installed("--openai", _NEEDED, "serve")
    if traces:
        _check_installed("--otlp_traces_endpoint", _NEEDED_BY_TRACES, "tracing")


def _check_installed(flag: str, needed: Sequence[str], extra: str) -> None:
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        raise ServerError(
            f"{flag} needs {', '.join(missing)}; pip install 'enginery[{extra}]' brings it"
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


class FrontEnd:
    """The front end's process.

    Args:
        options: what it is told.
    """

    def __init__(self, options: FrontEndOptions) -> None:
        self.options = options
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "the front end was not started"
        return self._process.pid

    @property
    def url(self) -> str:
        """Where clients find it; known when started."""
        host = self.options.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def start(self, timeout_s: float = 60) -> None:
        """Starts the process and waits until it listens.

        Raises:
            ServerError: it cannot listen, or ended, or took too long.
        """
        self._process = subprocess.Popen(
            # -P: in a clone the working directory has a folder that is named as the package is.
            [sys.executable, "-P", "-m", "enginery.openai"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A group of its own: Ctrl-C reaches the process that started it alone.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # then it has ended, which is told below
                self._process.stdin.write(self.options.to_json() + "\n")
                self._process.stdin.flush()
            answer = _read_line(self._process.stdout, timeout_s)
            if "port" not in answer:
                reason = answer.get("error", "did not start; its reason is on standard error")
                raise ServerError(f"the OpenAI front end: {reason}")
        except BaseException:
            self.kill()
            raise
        self._port = int(answer["port"])

    def stop(self) -> None:
        """Lets requests in flight end, for at most `exit_timeout_s`, and ends the process."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.options.exit_timeout_s + _KILL_AFTER_S)
        self.kill()

    def kill(self) -> None:
        """Ends the process at once; harmless when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _read_line(stream: IO[str], timeout_s: float) -> dict[str, str]:
    """The process's one line; empty when it ended without one."""
    if not select.select([stream], [], [], timeout_s)[0]:
        return {"error": f"did not listen within {timeout_s:g} seconds"}
    line = stream.readline()
    found: dict[str, str] = json.loads(line) if line else {}
    return found
