# SPDX-License-Identifier: Apache-2.0
"""The front end's process, with no Triton server behind it."""

from __future__ import annotations

import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginery.openai.front_end import FrontEnd
from enginery.openai.options import FrontEndOptions
from enginery.triton_backend.errors import ServerError

ENGINE = Path(__file__).parents[2] / "golden" / "tiny.engine"
NOWHERE = "127.0.0.1:1"
OPTIONS = FrontEndOptions(
    engine_dir=str(ENGINE),
    model_name="tiny",
    grpc_url=NOWHERE,
    metrics_url=NOWHERE,
    max_batch_size=0,
    tokenizer_dir=str(ENGINE.parent),
    port=0,
    exit_timeout_s=5,
)
DEADLINE_S = 60


@pytest.fixture(scope="module")
def front_end() -> Iterator[FrontEnd]:
    started = FrontEnd(OPTIONS)
    started.start(DEADLINE_S)
    yield started
    started.kill()


def answer(front_end: FrontEnd, path: str, body: Any = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON."""
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        front_end.url + path, raw, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as response:
            return response.status, response.headers, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def test_options_go_the_way_there_and_back() -> None:
    options = replace(OPTIONS, api_keys=("a", "b"), allow_origins=("https://a.example",))
    assert FrontEndOptions.from_json(options.to_json()) == options
    assert "\n" not in options.to_json()


def test_it_lives_but_is_not_ready(front_end: FrontEnd) -> None:
    assert answer(front_end, "/health")[0] == 200
    body = {"model": "tiny", "prompt": [1], "max_tokens": 1}
    for stream in (None, False, True):
        path = "/health/ready" if stream is None else "/v1/completions"
        posted = None if stream is None else {**body, "stream": stream}
        status, headers, found = answer(front_end, path, posted)
        assert (status, found["error"]["code"]) == (503, "not_ready")
        assert headers["retry-after"]
    assert answer(front_end, "/health/generate")[0] == 503


def test_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"openai_port = {port} on 127.0.0.1: Address alr"):
            FrontEnd(replace(OPTIONS, port=port)).start(DEADLINE_S)


def test_it_ends_when_told_and_with_who_started_it() -> None:
    told = FrontEnd(OPTIONS)
    told.start(DEADLINE_S)
    process = told._process
    assert process is not None
    told.stop()
    # uvicorn ends as it was told to: by the signal, when all is done.
    assert process.returncode == -signal.SIGTERM
    left = FrontEnd(OPTIONS)
    left.start(DEADLINE_S)
    process = left._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()  # what the kernel does when the process that started it is killed
    assert process.wait(DEADLINE_S) == 0
    left.kill()
