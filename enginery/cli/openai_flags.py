# SPDX-License-Identifier: Apache-2.0
"""Flags of the OpenAI-compatible front end of `enginery serve`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from enginery.openai.options import (
    DEFAULT_MAX_BODY_BYTES,
    DEFAULT_PORT,
    OTLP_SCHEMES,
    FrontEndOptions,
)
from enginery.runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from enginery.triton_backend.server import TritonServer

_MAX_PORT = 65535


def add_openai_flags(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    group = parser.add_argument_group("OpenAI-compatible front end (docs/openai.md)")
    group.add_argument(
        "--openai", action="store_true", help="also serve /v1/completions and /v1/chat/completions"
    )
    group.add_argument("--openai_host", default="127.0.0.1", help="address (%(default)s)")
    group.add_argument(
        "--openai_port", type=int, default=DEFAULT_PORT, help="0: a free one (%(default)s)"
    )
    group.add_argument(
        "--api_key", help="key that clients must send; other users of the machine see it here"
    )
    group.add_argument("--api_key_file", type=Path, help="file with such keys, one a line")
    group.add_argument(
        "--allow_origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin call from a browser, e.g. https://chat.example; repeatable "
        "(default: none)",
    )
    group.add_argument(
        "--max_body_bytes",
        type=int,
        default=DEFAULT_MAX_BODY_BYTES,
        help="of a request (%(default)s)",
    )
    group.add_argument(
        "--otlp_traces_endpoint",
        metavar="URL",
        help="send OpenTelemetry traces to this collector: http://HOST:4318 or grpc://HOST:4317 "
        "(extra `tracing`)",
    )


def check_openai_flags(args: argparse.Namespace) -> tuple[str, ...]:
    """Checks them before anything is started, and reads the keys.

    Raises:
        InvalidArgumentError: lists what is wrong.
        ServerError: what the front end needs is not installed, or its port is taken.
    """
    from enginery.openai.front_end import check_installed
    from enginery.openai.listener import listen

    if not args.openai:
        return ()
    check_installed(traces=args.otlp_traces_endpoint is not None)
    problems = []
    if not 0 <= args.openai_port <= _MAX_PORT:
        problems.append(f"openai_port = {args.openai_port}: must be 0..{_MAX_PORT}; 0: a free one")
    if args.layout != "enginery":
        problems.append(
            f"layout = {args.layout}: --openai speaks to the model of the layout enginery; leave "
            "one of them out"
        )
    if args.max_body_bytes < 1:
        problems.append(f"max_body_bytes = {args.max_body_bytes}: must be at least 1")
    if args.otlp_traces_endpoint is not None and not _is_endpoint(args.otlp_traces_endpoint):
        problems.append(
            f"otlp_traces_endpoint = {args.otlp_traces_endpoint}: must be a URL with the scheme "
            f"{', '.join(OTLP_SCHEMES)} and a host, e.g. http://localhost:4318"
        )
    keys = [] if args.api_key is None else [args.api_key]
    if args.api_key_file is not None:
        try:
            lines = args.api_key_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"api_key_file = {args.api_key_file}: {error}")
        else:
            found = [line.strip() for line in lines if line.strip()]
            if not found:
                # Without a key everybody would be let in.
                problems.append(f"api_key_file = {args.api_key_file}: has no key; one a line")
            keys += found
    # A header has no others; a value is never shown.
    if not all(key and key.isascii() and key.isprintable() and " " not in key for key in keys):
        problems.append("api_key: a key must be printable ASCII without spaces, and not empty")
    if problems:
        raise InvalidArgumentError.from_problems("serve", problems)
    # Found now and not when the model is loaded; the front end's process listens for good.
    listen(args.openai_host, args.openai_port).close()
    return tuple(keys)


def _is_endpoint(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in OTLP_SCHEMES and bool(url.hostname) and url.port != 0
    except ValueError:  # of the port
        return False


def front_end_options(
    args: argparse.Namespace, keys: tuple[str, ...], server: TritonServer
) -> FrontEndOptions:
    """What the front end of a started server is told."""
    return FrontEndOptions(
        engine_dir=str(args.engine),
        tokenizer_dir=str(args.tokenizer_dir or ""),
        model_name=server.repository.model_name,
        grpc_url=server.grpc_url,
        metrics_url=server.metrics_url,
        max_batch_size=args.max_batch_size,
        host=args.openai_host,
        port=args.openai_port,
        api_keys=keys,
        allow_origins=tuple(args.allow_origin),
        max_body_bytes=args.max_body_bytes,
        otlp_traces_endpoint=args.otlp_traces_endpoint or "",
        exit_timeout_s=args.exit_timeout,
    )
