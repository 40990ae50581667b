# SPDX-License-Identifier: Apache-2.0
"""A running `enginery serve --openai`, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from enginery.triton_backend.metrics import KV_CACHE_BLOCKS, REQUESTS, read_gauge

from .triton import DEADLINE_S

MODEL = "enginery"
KEY = "a-key-of-the-test"


@dataclass
class Serving:
    """A running `enginery serve --openai`."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["openai"])

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=DEADLINE_S
        )

    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=DEADLINE_S
        )

    def get(self, path: str) -> str:
        headers = {"Authorization": f"Bearer {KEY}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.url}{path}", headers=headers), timeout=DEADLINE_S
        ) as page:
            text: str = page.read().decode()
        return text

    def is_idle(self) -> bool:
        """Nothing in the runtime, all KV blocks free, and the front end knows of no request."""
        page = self.get("/metrics")
        blocks = [read_gauge(page, KV_CACHE_BLOCKS, kind) for kind in ("free", "max")]
        return (
            read_gauge(page, REQUESTS, "active") == 0
            and blocks[0] == blocks[1]
            and "enginery_openai_requests_running 0.0" in page
        )

    def num_active(self) -> float:
        return read_gauge(self.get("/metrics"), REQUESTS, "active") or 0

    def front_end_pid(self) -> int:
        """The child of the command that is not tritonserver."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (pid,) = {int(child) for child in children.split()} - {self.ready["pid"]}
        return pid


@contextlib.contextmanager
def serving(engine: Path, *options: str) -> Iterator[Serving]:
    ports = [f"--{name}_port=0" for name in ("http", "grpc", "metrics", "openai")]
    command = [sys.executable, "-m", "enginery.cli.main", "serve", str(engine), "--openai"]
    process = subprocess.Popen(
        [*command, *ports, f"--kv_cache_bytes={1 << 30}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield Serving(process, json.loads(line))
    finally:
        process.kill()
        process.communicate()


async def posted(
    server: Serving, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection on which a completion was asked for."""
    reader, writer = await asyncio.open_connection(*server.address)
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    writer.write(head.encode() + raw)
    await writer.drain()
    return reader, writer
