# SPDX-License-Identifier: Apache-2.0
"""`tensorrt_llm`: token ids in, token ids out, on the Python backend over the runtime.

The threads are those of the other layout's model (triton_backend/model.py). What differs: a request
may have several rows, each a request of the runtime, and one may cancel others by their id.
"""

from __future__ import annotations

import json
from typing import Any

from enginery.runtime.errors import EngineryError, InvalidArgumentError

from .. import model
from ..options import ModelOptions
from ..request_log import client_request_id_of
from ..requests import shorter_timeout_ms
from .clients import BatchSender, RequestNames, RowClient
from .options import read_tensorrt_llm_parameters
from .refusals import TICKET, refuse_parameters
from .requests import Arrays, RowReader, RowRequest
from .responses import RowWriter
from .token_text import TokenBytes


class TritonPythonModel(model.TritonPythonModel):
    """Loaded by name by the Python backend, which calls initialize, execute and finalize."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the engine and starts the runtime.

        Args:
            args: from Triton server; `model_config` is the JSON of `config.pbtxt`.
        """
        super().initialize(args)
        self._token_bytes = TokenBytes(self._engine)
        self._reader = RowReader(
            self._engine.info,
            self._token_bytes,
            is_decoupled=self._is_decoupled,
            excludes_input=self._excludes_input,
        )

    def execute(self, requests: list[Any]) -> Any:
        """Submits requests; a bad one is answered with an error and the rest go on."""
        super().execute(requests)
        # In the other mode Triton server wants a list, of None for what is answered later.
        return None if self._is_decoupled else [None] * len(requests)

    def _read_options(self, config: dict[str, Any]) -> ModelOptions:
        self._is_decoupled = bool(config["model_transaction_policy"]["decoupled"])
        parameters = model.string_parameters(config)
        options, self._excludes_input = read_tensorrt_llm_parameters(parameters)
        return options

    def _submit(self, request: Any, sender: Any) -> None:
        parameters = request.parameters()
        refuse_parameters(parameters)
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        ticket = str(json.loads(parameters or "{}").get(TICKET, ""))
        names = RequestNames(request.request_id(), ticket)
        if _asks_to_stop(arrays):
            self._stop(names, sender)
            return
        rows = self._reader.read(arrays)
        client_request_id = client_request_id_of(request)
        timeout_ms = shorter_timeout_ms(0, request.timeout())
        batch = BatchSender(self._pb_utils, sender, len(rows))
        submitted: list[int] = []
        try:
            for index, row in enumerate(rows):
                writer = RowWriter(
                    row,
                    self._token_bytes,
                    self._engine.info.tokens_per_block,
                    index,
                    len(rows),
                    request.requested_output_names(),
                )
                client = RowClient(self._pb_utils, batch, writer, names, client_request_id)
                submitted.append(self._submit_row(row, client, timeout_ms))
        except EngineryError:
            # The caller answers the whole request with the error.
            batch.fail()
            for request_id in submitted:
                self._cancel(request_id)
            raise

    def _submit_row(self, row: RowRequest, client: RowClient, timeout_ms: int) -> int:
        # The dispatcher may see an event before submit returns: it waits for the entry here.
        with self._lock:
            request_id = self._runtime.submit(
                row.prompt_token_ids,
                row.sampling_params,
                streaming=row.is_streaming,
                timeout_ms=timeout_ms,
                client_request_id=client.client_request_id,
            )
            self._clients[request_id] = client
        return request_id

    def _stop(self, names: RequestNames, sender: Any) -> None:
        """Cancels what is called so, and answers with a response without outputs.

        That nothing is called so is no error: it may have ended a moment before.
        """
        if not any(names):
            raise InvalidArgumentError("stop = True: the request has no id; give that of another")
        for request_id, client in self._copy_clients().items():
            if isinstance(client, RowClient) and client.names.are_asked_for(names):
                self._cancel(request_id)
        pb_utils = self._pb_utils
        sender.send(
            pb_utils.InferenceResponse([]), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        )


def _asks_to_stop(arrays: Arrays) -> bool:
    return "stop" in arrays and bool(arrays["stop"].any())
