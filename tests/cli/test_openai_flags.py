# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import importlib.util
import socket
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from enginery.cli.flags import FlagParser
from enginery.cli.openai_flags import check_openai_flags
from enginery.cli.serve import add_arguments
from enginery.runtime.errors import InvalidArgumentError
from enginery.triton_backend.errors import ServerError


def parsed(*options: str) -> argparse.Namespace:
    parser = FlagParser()
    add_arguments(parser)
    return parser.parse_args(["engine", "--openai", "--openai_port", "0", *options])


def test_keys_of_flag_and_file(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n\n  two  \n")
    assert check_openai_flags(parsed()) == ()
    found = check_openai_flags(parsed("--api_key", "zero", "--api-key-file", str(keys)))
    assert found == ("zero", "one", "two")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--openai_port", "65536"), "openai_port = 65536: must be 0..65535"),
        (("--max_body_bytes", "0"), "max_body_bytes = 0: must be at least 1"),
        (("--layout", "tensorrt_llm"), "layout = tensorrt_llm"),
        (
            ("--otlp_traces_endpoint", "localhost:4317"),
            "otlp_traces_endpoint = localhost:4317: must",
        ),
        (("--otlp_traces_endpoint", "http://"), "must be a URL with the scheme http, https, grpc"),
        (("--otlp_traces_endpoint", "grpc://a:port"), "and a host, e.g. http://localhost:4318"),
        (("--api_key", ""), "api_key: a key must be printable"),
        (("--api_key", "with space"), "api_key: a key must be printable"),
        (("--api_key_file", "/nowhere/at/all"), "api_key_file = /nowhere/at/all: "),
        (("--api_key_file", "/dev/null"), "api_key_file = /dev/null: has no key"),
    ],
)
def test_what_is_refused(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        check_openai_flags(parsed(*options))
    assert says in str(error.value)
    assert "with space" not in str(error.value)


@pytest.mark.parametrize("url", ["http://a", "https://[::1]:4318/v1/traces", "grpc://a:4317"])
def test_collectors(url: str) -> None:
    assert check_openai_flags(parsed("--otlp_traces_endpoint", url)) == ()


def test_traces_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        if name.startswith("opentelemetry."):
            raise ModuleNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert check_openai_flags(parsed()) == ()
    with pytest.raises(ServerError) as missing:
        check_openai_flags(parsed("--otlp_traces_endpoint", "http://localhost:4318"))
    assert "--otlp_traces_endpoint needs opentelemetry.sdk, " in str(missing.value)
    assert "pip install 'enginery[tracing]'" in str(missing.value)


def test_port_that_is_taken_is_found_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ServerError, match=f"openai_port = {port} on 127.0.0.1"):
            check_openai_flags(parsed("--openai_port", port))


def test_nothing_is_checked_where_it_is_not_asked_for() -> None:
    args = parsed("--openai_port", "70000")
    args.openai = False
    assert check_openai_flags(args) == ()
