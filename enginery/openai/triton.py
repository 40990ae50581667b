# SPDX-License-Identifier: Apache-2.0
"""Triton server over gRPC: one stream per request, so that ending the stream cancels it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import struct
from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2

from enginery.triton_backend.tensors import INPUTS

from .errors import model_error, not_ready
from .generation import Cancel, Generation, Piece, Receiver, TokenLogprob, Usage
from .grpc_channel import Channel, GrpcError

_READY_TIMEOUT_S = 5
_METRICS_TIMEOUT_S = 5
_SERVICE = "/inference.GRPCInferenceService"
STREAM_METHOD = f"{_SERVICE}/ModelStreamInfer"
_READY_METHOD = f"{_SERVICE}/ModelReady"
_FORMATS = {"INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "BOOL": "?"}
"""Of elements, as `struct` has them."""
_Response = service_pb2.ModelStreamInferResponse
_INPUT_TYPES = {spec.name: spec.data_type for spec in INPUTS}


class TritonModel:
    """The model that `enginery serve` runs; all methods belong to one event loop.

    Args:
        grpc_url: host and port.
        metrics_url: host and port.
        model_name: in Triton server.
    """

    def __init__(self, grpc_url: str, metrics_url: str, model_name: str) -> None:
        self._channel = Channel(grpc_url)
        self._metrics_url = metrics_url
        self._model_name = model_name

    async def start(self, generation: Generation, receiver: Receiver) -> Cancel:
        """See `generation.Model`."""
        message = self._request(generation)
        try:
            call = await self._channel.start(STREAM_METHOD, message, _Responses(receiver))
        except GrpcError as error:
            raise not_ready(str(error)) from None
        return call.cancel

    async def is_ready(self) -> bool:
        """See `generation.Model`."""
        request = service_pb2.ModelReadyRequest(name=self._model_name)
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                answers = await self._channel.ask(_READY_METHOD, request.SerializeToString())
        except (GrpcError, TimeoutError):
            return False
        return any(service_pb2.ModelReadyResponse.FromString(each).ready for each in answers)

    async def metrics(self) -> str:
        """See `generation.Model`."""
        return await asyncio.to_thread(_get_metrics, self._metrics_url)

    async def close(self) -> None:
        """See `generation.Model`."""
        self._channel.close()

    def _request(self, generation: Generation) -> bytes:
        inputs = {
            "input_ids": generation.token_ids,
            "num_return_sequences": generation.num_sequences,
            "stream": generation.streams,
            "return_perf_metrics": True,
            **generation.inputs,
        }
        request = service_pb2.ModelInferRequest(
            model_name=self._model_name, id=generation.request_id
        )
        add_inputs(request, inputs)
        encoded: bytes = request.SerializeToString()
        return encoded


class _Responses:
    """Reads the responses of a stream.

    Args:
        receiver: of the pieces in them.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._failure: Exception | None = None

    def on_message(self, message: bytes) -> None:
        """See `grpc_channel.Listener`."""
        if self._failure is not None:
            return
        try:
            response = _Response.FromString(message)
            if response.error_message:
                # Told at the end: the stream ends by itself, and Triton server need not cancel it.
                self._failure = model_error(response.error_message)
            else:
                self._receiver.on_piece(read_piece(response.infer_response))
        except Exception as error:  # also our bugs: this request pays, the others go on
            self._failure = error
            self._receiver.on_end(error)

    def on_end(self, error: GrpcError | None) -> None:
        """See `grpc_channel.Listener`."""
        reason = self._failure or (None if error is None else not_ready(str(error)))
        self._receiver.on_end(reason)


def add_inputs(request: Any, inputs: Mapping[str, Any]) -> None:
    """Adds inputs to a `ModelInferRequest` in the types that the model declares.

    Args:
        request: is changed.
        inputs: by name; a value that is no list has shape [1].
    """
    for name, value in inputs.items():
        data_type = _INPUT_TYPES[name]
        values = value if isinstance(value, list) else [value]
        if data_type == "STRING":
            data_type, raw = "BYTES", b"".join(map(_raw_text, values))
        else:
            raw = struct.pack(f"<{len(values)}{_FORMATS[data_type]}", *values)
        request.inputs.add(name=name, datatype=data_type, shape=[len(values)])
        request.raw_input_contents.append(raw)


def _raw_text(text: str) -> bytes:
    """An element of a string tensor: its length in four bytes, then UTF-8."""
    raw = text.encode()
    return len(raw).to_bytes(4, "little") + raw


def read_piece(response: Any) -> Piece:
    """The piece in a response of Triton server (`ModelInferResponse`)."""
    names = [output.name for output in response.outputs]
    raw = dict(zip(names, response.raw_output_contents, strict=True))
    finish_reason = _text(raw["finish_reason"])
    if finish_reason not in ("", "stop", "length"):
        # Nobody here cancels and goes on listening, or sets a time limit: the server is ending.
        raise not_ready(f"the request was ended: {finish_reason}")
    return Piece(
        _integer(raw["sequence_index"]),
        _text(raw["text_output"]),
        _numbers("i", raw["output_ids"]),
        _logprobs(raw, "output_log_probs", "top") if "output_log_probs" in raw else (),
        _logprobs(raw, "prompt_log_probs", "prompt_top") if "prompt_log_probs" in raw else None,
        finish_reason,
        _usage(raw) if "num_input_tokens" in raw else None,
    )


def _usage(raw: Mapping[str, bytes]) -> Usage:
    return Usage(
        num_prompt_tokens=_integer(raw["num_input_tokens"]),
        num_output_tokens=_integer(raw["num_output_tokens"]),
        num_reused_tokens=_integer(raw["num_reused_tokens"]),
        first_token_ns=_integer(raw["first_token_time_ns"]),
        arrival_ns=_integer(raw["arrival_time_ns"]),
        first_scheduled_ns=_integer(raw["first_scheduled_time_ns"]),
        last_token_ns=_integer(raw["last_token_time_ns"]),
    )


def _logprobs(raw: Mapping[str, bytes], name: str, top: str) -> tuple[TokenLogprob, ...]:
    """Those in three outputs: of the tokens, and of as many likeliest ones for each."""
    log_probs = _numbers("f", raw[name])
    token_ids = _numbers("i", raw.get(f"{top}_token_ids", b""))
    values = _numbers("f", raw.get(f"{top}_log_probs", b""))
    best = tuple(zip(token_ids, values, strict=True))
    width = len(best) // max(1, len(log_probs))
    return tuple(
        TokenLogprob(log_prob, best[i * width : (i + 1) * width])
        for i, log_prob in enumerate(log_probs)
    )


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def _numbers(kind: str, raw: bytes) -> tuple[Any, ...]:
    """Elements of four bytes, "i" or "f"; numpy is slower for a few of them."""
    return struct.unpack(f"<{len(raw) // 4}{kind}", raw)


def _text(raw: bytes) -> str:
    """A string tensor of one element: its length in four bytes, then UTF-8."""
    return raw[4:].decode()


def _get_metrics(url: str) -> str:
    connection = http.client.HTTPConnection(url, timeout=_METRICS_TIMEOUT_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        return text if response.status == 200 else ""
    return ""
