# SPDX-License-Identifier: Apache-2.0
"""`tensorrt_llm_bls`: what the ensemble does, as a program that calls the same three models.

It can do what an ensemble cannot: notice that its client left, and give the whole text so far with
each response. A request in flight has a thread, which waits for the models most of the time.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from enginery.runtime.errors import EngineryError

from ..clients import ClientWatch, tensor_response
from ..model import end_with_server, string_parameters
from ..responses import Tensors
from .options import BlsOptions
from .refusals import TICKET, refuse_parameters, refuse_unsupported
from .requests import Arrays
from .tensors import (
    BLS_INPUTS,
    ENSEMBLE_INPUTS,
    ENSEMBLE_LINKS,
    ENSEMBLE_OUTPUTS,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
)

_LOG = logging.getLogger(__name__)

# Requests beyond these wait here for one of them to end, rather than in the runtime.
_MAX_IN_FLIGHT = 512
_ALWAYS = ("output_ids", "sequence_length")


class TritonPythonModel:
    """Loaded by name by the Python backend, which calls initialize, execute and finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        """Starts the threads.

        Args:
            args: from Triton server; `model_config` is the JSON of `config.pbtxt`.
        """
        import triton_python_backend_utils as pb_utils

        self._pb_utils = pb_utils
        end_with_server()
        config = json.loads(args["model_config"])
        self._options = BlsOptions.from_parameters(string_parameters(config))
        self._is_decoupled = bool(config["model_transaction_policy"]["decoupled"])
        self._pool = ThreadPoolExecutor(_MAX_IN_FLIGHT, "request")
        self._ids = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._watch = ClientWatch(self._copy_calls, self._cancel)

    def execute(self, requests: list[Any]) -> Any:
        """Hands requests to the threads."""
        for request in requests:
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            call = Call(self._pb_utils, request, arrays, self._options, self._is_decoupled)
            number = next(self._ids)
            with self._lock:
                self._calls[number] = call
            self._pool.submit(self._run, number, call)
        return None if self._is_decoupled else [None] * len(requests)

    def finalize(self) -> None:
        """Ends the threads."""
        self._watch.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, number: int, call: Call) -> None:
        try:
            call.run()
        finally:
            with self._lock:
                del self._calls[number]

    def _copy_calls(self) -> dict[int, Call]:
        with self._lock:
            return dict(self._calls)

    def _cancel(self, number: int) -> None:
        call = self._copy_calls().get(number)
        if call is not None:
            call.cancel()


class Call:
    """One request: its way through the three models.

    Args:
        pb_utils: Triton server's Python backend module.
        request: Triton server's.
        arrays: its inputs.
        options: of the model.
        is_decoupled: whether there may be several responses.
    """

    def __init__(
        self,
        pb_utils: Any,
        request: Any,
        arrays: Arrays,
        options: BlsOptions,
        is_decoupled: bool,
    ) -> None:
        self._pb_utils = pb_utils
        self._sender = request.get_response_sender()
        self._parameters: str = request.parameters()
        self._request_id: str = request.request_id()
        self._wanted = set(request.requested_output_names())
        self._arrays = arrays
        self._options = options
        self._is_decoupled = is_decoupled
        # Other clients may use the same id: this one's request is cancelled by a name of ours.
        self._ticket = uuid.uuid4().hex
        self._token_ids: dict[tuple[int, int], list[int]] = {}
        # After the last response Triton server may free what is_cancelled asks about.
        self._lock = threading.Lock()
        self._is_answered = False

    def is_gone(self) -> bool:
        """Whether the client cancelled or went away before its last response."""
        with self._lock:
            return not self._is_answered and bool(self._sender.is_cancelled())

    def cancel(self) -> None:
        """Cancels what runs in `tensorrt_llm`."""
        inputs = {
            "input_ids": np.zeros((1, 1), np.int32),
            "input_lengths": np.zeros((1, 1), np.int32),
            "request_output_len": np.zeros((1, 1), np.int32),
            "stop": np.ones((1, 1), np.bool_),
        }
        for _ in self._responses(self._options.model_name, inputs, ()):
            pass

    def run(self) -> None:
        """Answers the request, with an error where something is wrong."""
        pb_utils = self._pb_utils
        error = None
        try:
            self._answer()
        except EngineryError as problem:
            error = pb_utils.TritonError(str(problem), pb_utils.TritonError.INVALID_ARG)
        except _StepError as problem:
            error = problem.error
        except Exception as problem:  # our bug: this request pays, the server lives
            _LOG.exception("request failed")
            error = pb_utils.TritonError(f"{type(problem).__name__}: {problem}")
        try:
            if error is not None:
                self._send(pb_utils.InferenceResponse(error=error), is_last=True)
            elif self._is_decoupled:
                self._send(None, is_last=True)
        except Exception as problem:  # whatever Triton server raises for a client that is gone
            _LOG.warning("cannot send: %s", problem)

    def _answer(self) -> None:
        refuse_parameters(self._parameters)
        refuse_unsupported(BLS_INPUTS, self._arrays)
        encoded = self._step(PREPROCESSING, self._inputs(PREPROCESSING, {}))
        inputs = self._inputs(TENSORRT_LLM, {PREPROCESSING: encoded})
        wanted = [source for name, of, source in ENSEMBLE_OUTPUTS
                  if of == TENSORRT_LLM and name in self._wanted]  # fmt: skip
        indices = ("batch_index", "sequence_index")
        asked = sorted({*_ALWAYS, *indices, *wanted})
        for tensors in self._responses(self._options.model_name, inputs, asked):
            if not tensors:
                continue
            outputs = {name: tensors[name] for name in wanted if name in tensors}
            if "text_output" in self._wanted:
                outputs["text_output"] = self._text(tensors)
            self._send(tensor_response(self._pb_utils, outputs), is_last=not self._is_decoupled)

    def _text(self, tensors: Tensors) -> Any:
        if self._options.accumulates_tokens:
            indices = ("batch_index", "sequence_index")
            key = tuple(int(tensors[name].item()) if name in tensors else 0 for name in indices)
            known = self._token_ids.setdefault((key[0], key[1]), [])
            known += tensors["output_ids"].reshape(-1).tolist()
            tensors = {
                "output_ids": np.asarray([[known]], np.int32),
                "sequence_length": np.asarray([[len(known)]], np.int32),
            }
        inputs = {
            target: tensors[source]
            for of, source, _, target in ENSEMBLE_LINKS
            if of == TENSORRT_LLM
        }
        return self._step(POSTPROCESSING, inputs)["OUTPUT"]

    def _inputs(self, step: str, before: Mapping[str, Tensors]) -> Tensors:
        """What a step takes of the request and of the steps before it."""
        inputs = {
            target: self._arrays[name]
            for name, to, target in ENSEMBLE_INPUTS
            if to == step and name in self._arrays
        }
        for of, source, to, target in ENSEMBLE_LINKS:
            if to == step and of in before:
                inputs[target] = before[of][source]
        return inputs

    def _step(self, model: str, inputs: Tensors) -> Tensors:
        """Asks a model that gives one response."""
        names = {target for of, target, _, _ in ENSEMBLE_LINKS if of == model}
        names |= {source for _, of, source in ENSEMBLE_OUTPUTS if of == model}
        return _tensors(self._request(model, inputs, names).exec())

    def _responses(self, model: str, inputs: Tensors, names: Any) -> Iterator[Tensors]:
        """Asks `tensorrt_llm`, which may give several responses."""
        request = self._request(model, inputs, names, {TICKET: self._ticket})
        if not self._is_decoupled:
            yield _tensors(request.exec())
            return
        for response in request.exec(decoupled=True):
            yield _tensors(response)

    def _request(
        self, model: str, inputs: Tensors, names: Any, parameters: Mapping[str, str] | None = None
    ) -> Any:
        pb_utils = self._pb_utils
        return pb_utils.InferenceRequest(
            model_name=model,
            request_id=self._request_id,
            inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
            requested_output_names=sorted(names),
            parameters=dict(parameters or {}),
        )

    def _send(self, response: Any, *, is_last: bool) -> None:
        flags = self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
        with self._lock:
            if self._is_answered:
                return
            self._is_answered = is_last
            if response is None:
                self._sender.send(flags=flags)
            else:
                self._sender.send(response, flags=flags)


class _StepError(Exception):
    """A model answered with an error, which is handed on.

    Args:
        error: a TritonError.
    """

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


def _tensors(response: Any) -> Tensors:
    if response.has_error():
        raise _StepError(response.error())
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
