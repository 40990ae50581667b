# SPDX-License-Identifier: Apache-2.0
"""Serve an engine with Triton Inference Server.

Generates a model repository from the engine, checks it, starts tritonserver on it and waits until
the model is ready. SIGTERM and SIGINT end the server when the requests in flight are done, or after
--exit_timeout seconds; a second one ends it at once.

  enginery serve engines/demo
  enginery serve engines/demo --http_port 0 --grpc_port 0 --metrics_port 0
  enginery serve engines/demo --model_repository models --dry_run
  enginery serve engines/demo --layout tensorrt_llm
  enginery serve engines/demo --backend native
  enginery serve engines/llama-h200 --emulate
  enginery serve engines/demo --openai
  enginery serve --config serve.toml --http_port 0
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from enginery.cli.backend_flags import add_backend_flags, backend_options
from enginery.cli.executor_flags import add_executor_flags, add_thread_flags, executor_options
from enginery.cli.flags import FlagParser
from enginery.cli.layout_flags import add_layout_flags, layout_options
from enginery.cli.openai_flags import add_openai_flags, check_openai_flags, front_end_options
from enginery.cli.operations_flags import (
    add_log_flags,
    add_watchdog_flags,
    print_error,
    print_log,
    request_log_format,
    watchdog_options,
)
from enginery.runtime.abi import POLICIES
from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.runtime import RuntimeOptions

if TYPE_CHECKING:
    from enginery.openai.front_end import FrontEnd
    from enginery.triton_backend.server import TritonServer

_SERVER_DIED = 1
# Lines of tritonserver that look like errors and are none: it tells a machine without a GPU from
# one with, and it was told to end.
_NO_ERRORS = (
    '"CudaDriverHelper has not been initialized."',
    'CUDA driver version is insufficient for CUDA runtime version"',
    'falling back to non-pinned system memory"',
    "Signal (15) received.",
    # A client left as its last response was on the way.
    "HandleCancellation called even when the context was not cancelled",
)


def add_arguments(parser: FlagParser) -> None:
    """Declares the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    server = parser.add_argument_group("server")
    parser.add_config_flags(server)
    server.add_argument(
        "engine", type=Path, nargs="?", metavar="ENGINE", help="directory of the engine"
    )
    add_layout_flags(server)
    add_backend_flags(server)
    server.add_argument(
        "--model_repository", type=Path, help="where to write the repository (default: temporary)"
    )
    server.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    server.add_argument("--http_port", type=int, default=8000, help="0: a free one (%(default)s)")
    server.add_argument("--grpc_port", type=int, default=8001, help="0: a free one (%(default)s)")
    server.add_argument(
        "--metrics_port", type=int, default=8002, help="0: a free one (%(default)s)"
    )
    server.add_argument(
        "--exit_timeout",
        type=float,
        default=30,
        help="seconds for requests in flight (%(default)s)",
    )
    server.add_argument(
        "--start_timeout",
        type=float,
        default=120,
        help="seconds until the model must be ready (%(default)s)",
    )
    server.add_argument(
        "--log_verbose", type=int, default=0, help="of tritonserver; 1: milestones (%(default)s)"
    )
    add_log_flags(server)
    add_watchdog_flags(server)
    server.add_argument(
        "--tokenizer_dir",
        type=Path,
        metavar="DIR",
        help="where tokenizer.json is (default: the engine directory)",
    )
    server.add_argument(
        "--dry_run", action="store_true", help="write and check the repository, start nothing"
    )
    runtime = parser.add_argument_group("runtime (0: what the engine was built for)")
    runtime.add_argument("--max_batch_size", type=int, default=0, help="sequences in a step")
    runtime.add_argument("--max_num_tokens", type=int, default=0, help="packed tokens in a step")
    runtime.add_argument(
        "--kv_cache_bytes",
        type=int,
        default=0,
        help="KV cache budget (0: enough for max_batch_size, at most half of the free memory; on a "
        "GPU 0.9 of its free memory)",
    )
    runtime.add_argument(
        "--max_queue_size", type=int, default=0, help="waiting requests before UNAVAILABLE (0: any)"
    )
    runtime.add_argument(
        "--policy",
        choices=tuple(POLICIES),
        default="GUARANTEED_NO_EVICT",
        help="which requests are admitted, docs/architecture.md (%(default)s)",
    )
    add_thread_flags(runtime)
    runtime.add_argument("--max_chunk_tokens", type=int, default=0, help="longest prefill chunk")
    runtime.add_argument(
        "--disable_chunked_context", action="store_true", help="prefill a prompt in one step"
    )
    runtime.add_argument("--disable_block_reuse", action="store_true", help="no prefix cache")
    add_executor_flags(parser)
    add_openai_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serves until told to end; returns 0 then, 1 when the server died."""
    from enginery.triton_backend.leftovers import leftover_prefix
    from enginery.triton_backend.options import ModelOptions
    from enginery.triton_backend.repository import write_repository
    from enginery.triton_backend.server import ServerOptions, TritonServer

    if args.engine is None:
        raise InvalidArgumentError("engine: is missing; give ENGINE, or engine in --config FILE")
    api_keys = check_openai_flags(args)
    with Engine(args.engine) as engine:
        chosen = executor_options(args, engine)
    options = ModelOptions(
        engine_dir=str(args.engine),
        tokenizer_dir=str(args.tokenizer_dir or ""),
        log_requests=request_log_format(args),
        runtime=RuntimeOptions(
            kv_cache_bytes=args.kv_cache_bytes,
            max_batch_size=args.max_batch_size,
            max_num_tokens=args.max_num_tokens,
            max_queue_size=args.max_queue_size,
            policy=args.policy,
            enable_chunked_context=not args.disable_chunked_context,
            enable_block_reuse=not args.disable_block_reuse,
            max_chunk_tokens=args.max_chunk_tokens,
            num_threads=args.num_threads,
            pin_threads=args.pin_threads,
            **watchdog_options(args),
            **chosen,
        ),
    )
    with tempfile.TemporaryDirectory(prefix=leftover_prefix()) as temporary:
        folder = args.model_repository or Path(temporary)
        chosen_model = backend_options(args, layout_options(args, options))
        repository = write_repository(folder, chosen_model, args.model_name)
        if args.dry_run:
            print((folder / repository.model_name / "config.pbtxt").read_text(), end="")
            return 0
        server = TritonServer(
            repository,
            ServerOptions(
                address=args.host,
                http_port=args.http_port,
                grpc_port=args.grpc_port,
                metrics_port=args.metrics_port,
                exit_timeout_s=args.exit_timeout,
                log_verbose=args.log_verbose,
            ),
            on_log=functools.partial(_print_log, form=args.log_format),
        )
        return _serve(
            server,
            args.start_timeout,
            functools.partial(_front_end, args, api_keys),
            functools.partial(print_error, form=args.log_format),
        )


def _front_end(
    args: argparse.Namespace, api_keys: tuple[str, ...], server: TritonServer
) -> FrontEnd | None:
    """The front end of a started server, where one is asked for."""
    from enginery.openai.front_end import FrontEnd

    return FrontEnd(front_end_options(args, api_keys, server)) if args.openai else None


class _ToldToEnd(BaseException):
    """SIGTERM or SIGINT came; like KeyboardInterrupt, nothing but its handler may catch it."""


def _serve(
    server: TritonServer,
    start_timeout_s: float,
    make_front_end: Callable[[TritonServer], FrontEnd | None],
    report: Callable[[str], None],
) -> int:
    def end(_number: int, _frame: FrameType | None) -> None:
        raise _ToldToEnd

    _set_handler(end)
    front_end: FrontEnd | None = None
    try:
        server.start(start_timeout_s)
        front_end = make_front_end(server)
        if front_end is not None:
            front_end.start(start_timeout_s)
        _print_ready(server, front_end)
        reason = server.wait({front_end.pid: "the OpenAI front end died"} if front_end else None)
    except _ToldToEnd:
        with contextlib.suppress(_ToldToEnd):  # a second signal
            if front_end is not None:  # first: it would only refuse what comes meanwhile
                front_end.stop()
            server.stop()
        return 0
    finally:
        _set_handler(signal.SIG_IGN)
        if front_end is not None:
            front_end.kill()
        server.kill()
    report(reason)
    return _SERVER_DIED


def _set_handler(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _print_log(line: str, form: str) -> None:
    if not any(text in line for text in _NO_ERRORS):
        print_log(line, form)


def _print_ready(server: TritonServer, front_end: FrontEnd | None) -> None:
    """One line of JSON on standard output, for scripts that wait for it."""
    ready = {
        "status": "ready",
        "model": server.repository.model_name,
        "http": server.http_url,
        "grpc": server.grpc_url,
        "metrics": f"{server.metrics_url}/metrics",
        "pid": server.pid,
    }
    if front_end is not None:
        ready["openai"] = front_end.url
    print(json.dumps(ready), flush=True)
