# SPDX-License-Identifier: Apache-2.0
"""The two protocols: Triton server's gRPC streams, and OpenAI's completions over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Self

import aiohttp
import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.serving.generator import Reply, Tokens
from enginery.bench.workload import BenchRequest
from enginery.openai.grpc_channel import Answers, Channel, GrpcError
from enginery.openai.triton import STREAM_METHOD, read_piece

DONE = b"[DONE]"


class Arrivals(Answers):
    """Keeps messages with the times at which they came."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self._reply = reply

    def on_message(self, message: bytes) -> None:
        """See `grpc_channel.Listener`."""
        self._reply.chunks.append((time.monotonic(), message))


class TritonClient:
    """One gRPC stream per request on one connection.

    Args:
        url: host and port.
        model: its name.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model

    async def __aenter__(self) -> Self:
        self._channel = Channel(self._url)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()

    def encode(self, request: BenchRequest, seed: int) -> bytes:
        """See `Client`."""
        message = service_pb2.ModelInferRequest(model_name=self._model)
        for name, data_type, values in (
            ("input_ids", "INT32", np.array(request.prompt_token_ids, np.int32)),
            ("max_tokens", "INT32", np.array([request.output_tokens], np.int32)),
            ("seed", "UINT64", np.array([seed], np.uint64)),
            ("ignore_eos", "BOOL", np.array([True])),
            ("stream", "BOOL", np.array([True])),
        ):
            message.inputs.add(name=name, datatype=data_type, shape=values.shape)
            message.raw_input_contents.append(values.tobytes())
        encoded: bytes = message.SerializeToString()
        return encoded

    async def send(self, payload: bytes) -> Reply:
        """See `Client`."""
        reply = Reply(time.monotonic())
        try:
            arrivals = Arrivals(reply)
            await self._channel.start(STREAM_METHOD, payload, arrivals)
            await arrivals.all()
        except GrpcError as error:
            reply.error = str(error)
        return reply

    def decode(self, chunks: Sequence[tuple[float, bytes]]) -> Tokens:
        """See `Client`."""
        tokens = Tokens()
        for now, message in chunks:
            response = service_pb2.ModelStreamInferResponse.FromString(message)
            if response.error_message:
                tokens.error = response.error_message
            elif response.infer_response.outputs:
                piece = read_piece(response.infer_response)
                tokens.arrivals.append((now, len(piece.token_ids)))
                tokens.finish_reason = piece.finish_reason
        return tokens


class OpenAIClient:
    """`POST /v1/completions` with token ids as the prompt, streamed; connections are kept.

    Every chunk says how many tokens there are by then: one whose bytes are no whole character yet
    comes with the next.

    Args:
        url: with scheme.
        model: its name.
    """

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = f"{url}/v1/completions", model

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def encode(self, request: BenchRequest, seed: int) -> bytes:
        """See `Client`."""
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.prompt_token_ids,
            "max_tokens": request.output_tokens,
            "seed": seed,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        return json.dumps(body).encode()

    async def send(self, payload: bytes) -> Reply:
        """See `Client`."""
        reply = Reply(time.monotonic())
        headers = {"Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=payload, headers=headers) as response:
                async for chunk in response.content.iter_any():
                    reply.chunks.append((time.monotonic(), chunk))
            if response.status != 200:
                reply.error = f"status {response.status}"
        except aiohttp.ClientError as error:
            reply.error = f"{type(error).__name__}: {error}"
        return reply

    def decode(self, chunks: Sequence[tuple[float, bytes]]) -> Tokens:
        """See `Client`."""
        tokens, rest, num_tokens = Tokens(), b"", 0
        for now, chunk in chunks:
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                data = event.removeprefix(b"data: ")
                if data == DONE:
                    continue
                fields = json.loads(data)
                if "error" in fields:
                    tokens.error = fields["error"]["message"]
                    continue
                num_before, num_tokens = num_tokens, fields["usage"]["completion_tokens"]
                tokens.arrivals.append((now, num_tokens - num_before))
                for choice in fields["choices"]:
                    tokens.finish_reason = choice["finish_reason"] or ""
        return tokens
