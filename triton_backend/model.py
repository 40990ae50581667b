# SPDX-License-Identifier: Apache-2.0
"""The model that Triton server's Python backend runs: the runtime behind its request and response objects.

Three kinds of threads meet here. Triton server's thread calls `execute`, which submits and returns. The dispatcher polls the
runtime and queues events. Senders (sender.py) hand them out. None of them holds up the runtime's step loop.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from typing import Any

from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineryError, QueueFullError, ShutDownError
from enginery.runtime.event import Event
from enginery.runtime.runtime import Runtime
from enginery.runtime.tokenizer import Tokenizer

from .metrics import Gauges
from .options import ModelOptions
from .requests import read_request
from .responses import ResponseWriter
from .sender import SenderPool

_LOG = logging.getLogger(__name__)

_POLL_MS = 100
_METRICS_PERIOD_S = 0.2
_CANCEL_PERIOD_S = 0.05
# Asking Triton server whether a client is gone is a message to another process: so many a round.
_CANCEL_CHECKS_PER_ROUND = 128


class TritonPythonModel:
    """Loaded by name by the Python backend, which calls initialize, execute and finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the engine and starts the runtime.

        Args:
            args: from Triton server; `model_config` is the JSON of `config.pbtxt`.
        """
        import triton_python_backend_utils as pb_utils

        self._pb_utils = pb_utils
        config = json.loads(args["model_config"])
        options = ModelOptions.from_parameters(
            {key: value["string_value"] for key, value in config["parameters"].items()}
        )
        self._engine = Engine(options.engine_dir)
        self._runtime = Runtime(self._engine, options.runtime)
        directory = options.tokenizer_dir or options.engine_dir
        self._tokenizer = functools.cache(lambda: Tokenizer(directory))
        self._live: dict[int, _LiveRequest] = {}
        self._lock = threading.Lock()
        self._is_finalizing = threading.Event()
        self._senders = SenderPool(options.num_sender_threads, self._cancel)
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._gauges = Gauges(pb_utils, labels)
        self._threads = [
            threading.Thread(target=self._dispatch, name="dispatcher", daemon=True),
            threading.Thread(target=self._watch_clients, name="client-watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Submits requests; a bad one is answered with an error and the rest go on."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except EngineryError as error:
                self._refuse(sender, error)
            except Exception as error:  # our bug: this request pays, the server lives
                _LOG.exception("request failed")
                self._refuse(sender, EngineryError(f"{type(error).__name__}: {error}"))

    def finalize(self) -> None:
        """Cancels what runs and gives everything back."""
        self._is_finalizing.set()
        self._runtime.shutdown(drain=False)
        for thread in self._threads:
            thread.join(timeout=5)
        self._senders.close()
        self._runtime.close()
        self._engine.close()

    def _submit(self, request: Any, sender: Any) -> None:
        pb_utils = self._pb_utils

        def read(name: str) -> Any:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy()

        generation = read_request(read, self._tokenizer)
        live = _LiveRequest(pb_utils, sender, ResponseWriter(generation))
        # The dispatcher may see an event before submit returns: it waits for the entry here.
        with self._lock:
            request_id = self._runtime.submit(
                generation.prompt_token_ids,
                generation.sampling_params,
                streaming=generation.is_streaming,
                priority=generation.priority,
                timeout_ms=generation.timeout_ms,
                bad_token_sequences=generation.bad_token_sequences,
            )
            self._live[request_id] = live

    def _refuse(self, sender: Any, error: EngineryError) -> None:
        pb_utils = self._pb_utils
        if isinstance(error, ValueError):
            code = pb_utils.TritonError.INVALID_ARG
        elif isinstance(error, QueueFullError | ShutDownError):
            code = pb_utils.TritonError.UNAVAILABLE
        else:
            code = pb_utils.TritonError.INTERNAL
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _dispatch(self) -> None:
        next_update = 0.0
        while True:
            try:
                events = self._runtime.poll(_POLL_MS)
                for event in events:
                    self._deliver(event)
                if time.monotonic() >= next_update:
                    self._gauges.update(self._runtime.stats())
                    next_update = time.monotonic() + _METRICS_PERIOD_S
            except ShutDownError:
                return

    def _deliver(self, event: Event) -> None:
        with self._lock:
            live = (
                self._live.pop(event.request_id) if event.is_last else self._live[event.request_id]
            )
        self._senders.put(live, event)

    def _watch_clients(self) -> None:
        """Cancels the requests of clients that cancelled or went away."""
        position = 0
        while not self._is_finalizing.wait(_CANCEL_PERIOD_S):
            with self._lock:
                live = list(self._live.items())
            if not live:
                continue
            for i in range(min(_CANCEL_CHECKS_PER_ROUND, len(live))):
                request_id, request = live[(position + i) % len(live)]
                if request.is_cancelled():
                    self._cancel(request_id)
            position += _CANCEL_CHECKS_PER_ROUND

    def _cancel(self, request_id: int) -> None:
        try:
            self._runtime.cancel(request_id)
        except ShutDownError:
            pass  # everything is being cancelled


class _LiveRequest:
    """A request that has not had its last response."""

    def __init__(self, pb_utils: Any, sender: Any, writer: ResponseWriter) -> None:
        self._pb_utils = pb_utils
        self._sender = sender
        self._writer = writer

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send(self, event: Event) -> None:
        pb_utils = self._pb_utils
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if event.is_last else 0
        self._sender.send(self._response(event), flags=flags)

    def _response(self, event: Event) -> Any:
        pb_utils = self._pb_utils
        if event.finish_reason == "ERROR":
            message = f"{event.status}: {event.error}"
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL)
            )
        tensors = self._writer.tensors(event)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in tensors.items()]
        )
