# SPDX-License-Identifier: Apache-2.0
"""The front end's process: reads its options, listens, serves, ends.

Options come as one line on standard input, which stays open for as long as the process that
started this one lives: its end is ours. When it listens it says so in one line on standard output.
"""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import sys
import threading
from typing import TYPE_CHECKING

import uvicorn

from enginery.triton_backend.errors import ServerError

from .app import create_app
from .http1 import HttpProtocol
from .listener import listen
from .options import FrontEndOptions
from .served import Served
from .triton import TritonModel

if TYPE_CHECKING:
    from .tracing import Tracing


def main() -> int:
    """Serves until SIGTERM, SIGINT or the end of standard input."""
    options = FrontEndOptions.from_json(sys.stdin.readline())
    try:
        listener = listen(options.host, options.port)
    except ServerError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    with contextlib.closing(listener):
        _serve(options, listener)
    return 0


def _serve(options: FrontEndOptions, listener: socket.socket) -> None:
    served = Served.open(options)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # What was loaded stays. The collector, which would stop all streams for tens of
            # milliseconds to look at it, need not.
            gc.collect()
            gc.freeze()
            print(json.dumps({"port": listener.getsockname()[1]}), flush=True)

    # The client of Triton server belongs to the event loop, so it is made in it.
    def factory() -> object:
        model = TritonModel(options.grpc_url, options.metrics_url, options.model_name)
        return create_app(options, model, served, _tracing(options))

    server = Server(
        uvicorn.Config(
            factory,
            factory=True,
            http=HttpProtocol,
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=max(1, round(options.exit_timeout_s)),
        )
    )
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run([listener])


def _tracing(options: FrontEndOptions) -> Tracing | None:
    if not options.otlp_traces_endpoint:
        return None
    from .tracing import Tracing  # which needs an extra

    return Tracing.to_collector(options.otlp_traces_endpoint)


def _end_with_parent(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = server.force_exit = True
