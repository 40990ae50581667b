# SPDX-License-Identifier: Apache-2.0
"""A client of TensorRT-LLM's models in Triton server, which sends what NVIDIA's clients send."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpc

from enginery.triton_backend.server import TritonServer
from enginery.triton_backend.tensors import TensorSpec
from enginery.triton_backend.trtllm.repository import ensemble_inputs
from enginery.triton_backend.trtllm.tensors import BLS_INPUTS, INPUTS

from .triton import DEADLINE_S, OpenStream

Arrays = dict[str, npt.NDArray[Any]]

_DTYPES: dict[str, tuple[str, Any]] = {
    "STRING": ("BYTES", np.object_),
    "INT32": ("INT32", np.int32),
    "INT64": ("INT64", np.int64),
    "UINT8": ("UINT8", np.uint8),
    "UINT64": ("UINT64", np.uint64),
    "FP16": ("FP16", np.float16),
    "FP32": ("FP32", np.float32),
    "BOOL": ("BOOL", np.bool_),
}


class Failed(Exception):
    """The server answered with an error."""


def input_specs(model: str) -> dict[str, TensorSpec]:
    """The inputs of a model by name; what is no step is the ensemble."""
    specs: tuple[TensorSpec, ...] = INPUTS.get(model) or (*ensemble_inputs(), *BLS_INPUTS)
    return {spec.name: spec for spec in specs}


def typed_inputs(model: str, inputs: Mapping[str, Any], client: Any = grpc) -> list[Any]:
    """Inputs in the types that the model declares; what is no list of rows is one row of it."""
    specs, result = input_specs(model), []
    for name, value in inputs.items():
        data_type, dtype = _DTYPES[specs[name].data_type]
        rows = value if isinstance(value, np.ndarray) else _rows(value)
        array = np.array(rows, dtype)
        result.append(client.InferInput(name, array.shape, data_type))
        result[-1].set_data_from_numpy(array)
    return result


class Stream(OpenStream):
    """A gRPC stream to a model.

    Args:
        server: started.
        model: asked for.
    """

    def __init__(self, server: TritonServer, model: str = "ensemble") -> None:
        super().__init__(server)
        self._model = model

    def submit(
        self,
        inputs: Mapping[str, Any],
        outputs: list[str] | None = None,
        request_id: str = "",
        timeout_us: int | None = None,
    ) -> None:
        self._client.async_stream_infer(
            self._model,
            typed_inputs(self._model, inputs),
            outputs=outputs and [grpc.InferRequestedOutput(name) for name in outputs],
            request_id=request_id,
            enable_empty_final_response=True,
            timeout=timeout_us,
            parameters={"Streaming": bool(inputs.get("stream") or inputs.get("streaming"))},
        )

    def next(self) -> tuple[Arrays, bool]:
        """The outputs of the next response, and whether it is the last of its request."""
        result, error = self._responses.get(timeout=DEADLINE_S)
        if error is not None:
            raise Failed(error.message())
        raw = result.get_response()
        is_final = raw.parameters["triton_final_response"].bool_param
        return {output.name: result.as_numpy(output.name) for output in raw.outputs}, is_final

    def until_last(self) -> list[Arrays]:
        """The responses until the request's last; only one request may be in flight."""
        found: list[Arrays] = []
        is_final = False
        while not is_final:
            arrays, is_final = self.next()
            found += [arrays] if arrays else []
        return found


def ask(
    server: TritonServer,
    inputs: Mapping[str, Any],
    model: str = "ensemble",
    outputs: list[str] | None = None,
) -> list[Arrays]:
    """All responses to a request on a stream of its own."""
    with Stream(server, model) as stream:
        stream.submit(inputs, outputs)
        return stream.until_last()


def generate(
    server: TritonServer, body: Mapping[str, Any], endpoint: str = "generate"
) -> tuple[int, list[dict[str, Any]]]:
    """Status and answers of the ensemble's `generate` or `generate_stream` over HTTP."""
    connection = http.client.HTTPConnection(server.http_url, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("POST", f"/v2/models/ensemble/{endpoint}", json.dumps(body))
        response = connection.getresponse()
        lines = response.read().splitlines()
    return response.status, [json.loads(line.removeprefix(b"data: ")) for line in lines if line]


def _rows(value: Any) -> Any:
    if not isinstance(value, list):
        return [[_bytes(value)]]
    if value and isinstance(value[0], list):
        return [[_bytes(item) for item in row] for row in value]
    return [[_bytes(item) for item in value]]


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value
