# SPDX-License-Identifier: Apache-2.0
"""The model that Triton server's Python backend runs: the runtime behind its request objects.

Triton server's thread calls `execute`, which submits and returns; texts that take long to encode
are another thread's. The dispatcher takes the runtime's events and queues them. Senders (sender.py)
hand them out; other threads look after clients that left (clients.py) and metrics (metrics.py).
None holds up the runtime's step loop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import select
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.engine import Engine
from enginery.runtime.errors import (
    EngineryError,
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    ShutDownError,
)
from enginery.runtime.runtime import Runtime
from enginery.runtime.tokenizer import Tokenizer

from .clients import Client, ClientWatch, RequestClient
from .metrics import Metrics, read_runtime
from .observations import Observations
from .options import ModelOptions
from .readings import Limits
from .request_log import RequestLog, client_request_id_of
from .requests import check_parameters, read_request, shorter_timeout_ms
from .responses import ResponseWriter
from .sender import SenderPool

_LOG = logging.getLogger(__name__)

Arrays = Mapping[str, npt.NDArray[Any]]

_POLL_MS = 1000
# Far longer than Python holds its lock for, far shorter than anyone waits for a dead server.
_ALARM_S = 20
# Of text in a request that is encoded before the next request is looked at: some 50 ms at most.
_SHORT_TEXT_BYTES = 1 << 16


class TritonPythonModel:
    """Loaded by name by the Python backend, which calls initialize, execute and finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the engine and starts the runtime.

        Args:
            args: from Triton server; `model_config` is the JSON of `config.pbtxt`.
        """
        import triton_python_backend_utils as pb_utils

        self._pb_utils = pb_utils
        server = end_with_server()
        config = json.loads(args["model_config"])
        options = self._read_options(config)
        self._engine = Engine(options.engine_dir)
        # Metrics show the last iteration alone.
        self._runtime = Runtime(
            self._engine,
            dataclasses.replace(options.runtime, iteration_stats_capacity=1),
            on_stall=functools.partial(end_stalled_server, server),
        )
        directory = options.tokenizer_dir or options.engine_dir
        self._tokenizer = functools.cache(
            lambda: Tokenizer(directory, max_input_len=self._engine.info.max_input_len)
        )
        with contextlib.suppress(NotFoundError):  # then text is refused, request by request
            self._tokenizer()
        self._clients: dict[int, RequestClient] = {}
        self._lock = threading.Lock()
        self._is_closing = False
        self._senders = SenderPool(options.num_sender_threads, self._cancel)
        self._watch = ClientWatch(self._copy_clients, self._cancel)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._observations = Observations()
        self._log = RequestLog(options.log_requests, args["model_name"])
        read = read_runtime(self._runtime, self._limits(options), self._observations)
        self._metrics = Metrics(pb_utils, read, labels)
        self._long_texts = ThreadPoolExecutor(1, thread_name_prefix="long-texts")
        self._dispatcher = threading.Thread(target=self._dispatch, name="dispatcher", daemon=True)
        self._dispatcher.start()

    def execute(self, requests: list[Any]) -> None:
        """Submits requests; a bad one is answered with an error and the rest go on."""
        for request in requests:
            sender = request.get_response_sender()
            with self._refusing(sender, client_request_id_of(request)):
                self._submit(request, sender)

    def finalize(self) -> None:
        """Cancels what runs, answers it and gives everything back."""
        self._is_closing = True
        self._watch.close()
        self._metrics.close()
        self._runtime.shutdown(drain=False)
        self._dispatcher.join(timeout=5)
        self._long_texts.shutdown()
        self._senders.close()
        self._runtime.close()
        self._engine.close()

    def _read_options(self, config: dict[str, Any]) -> ModelOptions:
        return ModelOptions.from_parameters(string_parameters(config))

    @contextlib.contextmanager
    def _refusing(self, sender: Any, client_request_id: str) -> Iterator[None]:
        try:
            yield
        except EngineryError as error:
            self._refuse(sender, client_request_id, error)
        except Exception as error:  # our bug: this request pays, the server lives
            _LOG.exception("request failed")
            wrapped = EngineryError(f"{type(error).__name__}: {error}")
            self._refuse(sender, client_request_id, wrapped)

    def _limits(self, options: ModelOptions) -> Limits:
        info = self._engine.info
        return Limits(
            max_batch_size=options.runtime.max_batch_size or info.max_batch_size,
            tokens_per_block=info.tokens_per_block,
            memory_type="cpu" if info.target == "cpu" else "gpu",
        )

    def _submit(self, request: Any, sender: Any) -> None:
        check_parameters(json.loads(request.parameters() or "{}"))
        client_request_id = client_request_id_of(request)
        timeout_us: int = request.timeout()
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if text_bytes(arrays) > _SHORT_TEXT_BYTES:
            # Copies: Triton server's memory is the request's, which may end with `execute`.
            copies = {name: array.copy() for name, array in arrays.items()}
            self._long_texts.submit(
                self._submit_long, copies, sender, client_request_id, timeout_us
            )
        else:
            self._submit_inputs(arrays, sender, client_request_id, timeout_us)

    def _submit_long(
        self, arrays: Arrays, sender: Any, client_request_id: str, timeout_us: int
    ) -> None:
        with self._refusing(sender, client_request_id):
            if self._is_closing:  # what still waits is answered, not encoded first
                raise ShutDownError("the model was unloaded")
            self._submit_inputs(arrays, sender, client_request_id, timeout_us)

    def _submit_inputs(
        self, arrays: Arrays, sender: Any, client_request_id: str, timeout_us: int
    ) -> None:
        generation = read_request(arrays, self._tokenizer)
        client = Client(self._pb_utils, sender, ResponseWriter(generation), client_request_id)
        # The dispatcher may see an event before submit returns: it waits for the entry here.
        with self._lock:
            request_id = self._runtime.submit(
                generation.prompt_token_ids,
                generation.sampling_params,
                streaming=generation.is_streaming,
                priority=generation.priority,
                timeout_ms=shorter_timeout_ms(generation.timeout_ms, timeout_us),
                bad_token_sequences=generation.bad_token_sequences,
                client_request_id=client_request_id,
            )
            self._clients[request_id] = client

    def _refuse(self, sender: Any, client_request_id: str, error: EngineryError) -> None:
        self._observations.add_error(error.status)
        self._log.refuse(client_request_id, error)
        pb_utils = self._pb_utils
        message = str(error)
        if isinstance(error, InvalidArgumentError | NotFoundError):
            code = pb_utils.TritonError.INVALID_ARG
        elif isinstance(error, QueueFullError):
            code = pb_utils.TritonError.UNAVAILABLE
            message += "; retry after 1 s"
        elif isinstance(error, ShutDownError):
            code = pb_utils.TritonError.UNAVAILABLE
            message += "; retry when the model is ready again, or on another server"
        else:
            code = pb_utils.TritonError.INTERNAL
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
        try:
            sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:  # whatever Triton server raises; the requests after this one are not lost
            _LOG.exception("cannot send an error")

    def _dispatch(self) -> None:
        try:
            while True:
                events = self._runtime.poll(_POLL_MS)
                self._observations.add(events)
                for event in events:
                    with self._lock:
                        client = self._clients[event.request_id]
                        if event.is_last:
                            del self._clients[event.request_id]
                    self._log.add(event, client.client_request_id)
                    self._senders.put(client, event)
        except ShutDownError:
            return
        except BaseException:
            # Nobody would be answered any more while Triton server goes on saying "ready": the
            # process ends instead, which `TritonServer.wait` notices.
            _LOG.critical("the dispatcher failed", exc_info=True)
            os._exit(1)

    def _copy_clients(self) -> dict[int, RequestClient]:
        with self._lock:
            return dict(self._clients)

    def _cancel(self, request_id: int) -> None:
        with contextlib.suppress(ShutDownError):  # then everything is being cancelled
            self._runtime.cancel(request_id)


def end_stalled_server(server: int, _path: str, message: str) -> None:
    """Ends tritonserver and this process, its child: it would go on saying "ready".

    Args:
        server: tritonserver, as `end_with_server` gives it.
        message: of the runtime's watchdog, with the path of its file.
    """
    _LOG.critical("watchdog: %s", message)
    with contextlib.suppress(ProcessLookupError):
        # SIGTERM would wait for the requests that are stuck.
        signal.pidfd_send_signal(server, signal.SIGKILL)
    os._exit(1)


def text_bytes(arrays: Arrays) -> int:
    """Bytes of all texts in the inputs of a request."""
    texts = (array for array in arrays.values() if array.dtype == np.object_)
    return sum(len(item) for array in texts for item in array.reshape(-1))


def string_parameters(config: dict[str, Any]) -> dict[str, str]:
    """The `parameters` of `config.pbtxt`.

    Args:
        config: it as JSON.
    """
    return {key: value["string_value"] for key, value in config["parameters"].items()}


def end_with_server() -> int:
    """Starts a thread that ends this process when tritonserver, its parent, was killed.

    The Python backend's own check waits for locks in shared memory that the dead server may hold.
    Another thread may even wait for one while it holds the interpreter's lock, so that no Python
    runs any more: then nothing renews the alarm, whose default action ends the process.

    Returns:
        A descriptor of tritonserver, which means no other process when that one has ended.
    """
    server = os.pidfd_open(os.getppid())

    def watch() -> None:
        poll = select.poll()
        poll.register(server, select.POLLIN)
        while True:
            signal.alarm(_ALARM_S)
            if poll.poll(1000):
                os._exit(1)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()
    return server
