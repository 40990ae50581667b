# SPDX-License-Identifier: Apache-2.0
"""Triton server over gRPC: one stream per request, so that ending the stream cancels it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc_aio
from grpc import RpcError  # type: ignore[import-untyped]
from tritonclient.utils import InferenceServerException

from enginery.triton_backend.tensors import INPUTS

from .errors import model_error, not_ready
from .generation import Generation, Piece, TokenLogprob, Usage

_READY_TIMEOUT_S = 5
_METRICS_TIMEOUT_S = 5
_CHANNEL_ARGS = [
    ("grpc.enable_http_proxy", 0),  # Triton server is on this machine, whatever http_proxy says
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_DTYPES: dict[str, tuple[str, Any]] = {
    "STRING": ("BYTES", np.object_),
    "INT32": ("INT32", np.int32),
    "INT64": ("INT64", np.int64),
    "UINT64": ("UINT64", np.uint64),
    "FP32": ("FP32", np.float32),
    "BOOL": ("BOOL", np.bool_),
}
_SPECS = {spec.name: spec for spec in INPUTS}


class TritonModel:
    """The model that `enginery serve` runs; all methods belong to one event loop.

    Args:
        grpc_url: host and port.
        metrics_url: host and port.
        model_name: in Triton server.
    """

    def __init__(self, grpc_url: str, metrics_url: str, model_name: str) -> None:
        self._client = grpc_aio.InferenceServerClient(grpc_url, channel_args=_CHANNEL_ARGS)
        self._metrics_url = metrics_url
        self._model_name = model_name

    async def generate(self, generation: Generation) -> AsyncIterator[Piece]:
        """See `generation.Model`."""
        stream = self._client.stream_infer(self._request(generation))
        failure = None
        try:
            async for result, error in stream:
                if error is None:
                    yield read_piece(result.get_response())
                else:
                    failure = failure or model_error(error.message())
        except RpcError as error:
            raise not_ready(error.details() or error.code().name) from None
        finally:
            stream.cancel()  # does nothing where the stream has ended
        # Not at once: the stream ends by itself, and Triton server need not cancel it.
        if failure is not None:
            raise failure

    async def is_ready(self) -> bool:
        """See `generation.Model`."""
        try:
            return bool(
                await self._client.is_model_ready(self._model_name, client_timeout=_READY_TIMEOUT_S)
            )
        except (InferenceServerException, RpcError):
            return False

    async def metrics(self) -> str:
        """See `generation.Model`."""
        return await asyncio.to_thread(_get_metrics, self._metrics_url)

    async def close(self) -> None:
        """See `generation.Model`."""
        await self._client.close()

    async def _request(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        inputs = {
            "input_ids": generation.token_ids,
            "num_return_sequences": generation.num_sequences,
            "stream": generation.streams,
            "return_perf_metrics": True,
            **generation.inputs,
        }
        yield {
            "model_name": self._model_name,
            "inputs": tensors(inputs),
            "request_id": generation.request_id,
        }


def tensors(inputs: Mapping[str, Any]) -> list[Any]:
    """Input tensors in the types that the model declares; a value that is no list has shape [1]."""
    found = []
    for name, value in inputs.items():
        data_type, dtype = _DTYPES[_SPECS[name].data_type]
        values = value if isinstance(value, list) else [value]
        array = np.array([v.encode() if isinstance(v, str) else v for v in values], dtype)
        found.append(grpc_aio.InferInput(name, array.shape, data_type))
        found[-1].set_data_from_numpy(array)
    return found


def read_piece(response: Any) -> Piece:
    """The piece in a response of Triton server (`ModelInferResponse`)."""
    raw = {
        output.name: content
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    usage = None
    if "num_input_tokens" in raw:
        usage = Usage(
            num_prompt_tokens=_integer(raw["num_input_tokens"]),
            num_output_tokens=_integer(raw["num_output_tokens"]),
            num_reused_tokens=_integer(raw["num_reused_tokens"]),
            first_token_ns=_integer(raw["first_token_time_ns"]),
            arrival_ns=_integer(raw["arrival_time_ns"]),
            first_scheduled_ns=_integer(raw["first_scheduled_time_ns"]),
            last_token_ns=_integer(raw["last_token_time_ns"]),
        )
    finish_reason = _text(raw["finish_reason"])
    if finish_reason not in ("", "stop", "length"):
        # Nobody here cancels and goes on listening, or sets a time limit: the server is ending.
        raise not_ready(f"the request was ended: {finish_reason}")
    has_prompt = "prompt_log_probs" in raw
    return Piece(
        sequence_index=_integer(raw["sequence_index"]),
        text=_text(raw["text_output"]),
        token_ids=tuple(np.frombuffer(raw["output_ids"], np.int32).tolist()),
        logprobs=_logprobs(raw, "output_log_probs", "top"),
        prompt_logprobs=_logprobs(raw, "prompt_log_probs", "prompt_top") if has_prompt else None,
        finish_reason=finish_reason,
        usage=usage,
    )


def _logprobs(raw: Mapping[str, bytes], name: str, top: str) -> tuple[TokenLogprob, ...]:
    """Those in three outputs: of the tokens, and of as many likeliest ones for each."""
    log_probs = np.frombuffer(raw.get(name, b""), np.float32).tolist()
    token_ids = np.frombuffer(raw.get(f"{top}_token_ids", b""), np.int32).tolist()
    values = np.frombuffer(raw.get(f"{top}_log_probs", b""), np.float32).tolist()
    best = tuple(zip(token_ids, values, strict=True))
    width = len(best) // max(1, len(log_probs))
    return tuple(
        TokenLogprob(log_prob, best[i * width : (i + 1) * width])
        for i, log_prob in enumerate(log_probs)
    )


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


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
