# SPDX-License-Identifier: Apache-2.0
"""What Python in the serving path costs: `tensorrt_llm` on both backends, in turn.

A closed loop of streams of token ids. With an engine that computes next to nothing what is measured
is the path of a response, from the runtime to the client. Responses that pile up for a sequence are
joined, so a path that falls behind gives fewer of them than there are tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.serving.clients import TritonClient
from benchmarks.serving.generator import offer
from benchmarks.serving.server import Server
from enginery.bench.workload import BenchRequest, Span, random_requests
from enginery.runtime.engine import Engine

MODEL = "tensorrt_llm"
BACKENDS = ("python", "native")
OPTIONS = ("--layout", "tensorrt_llm", "--kv_cache_bytes", str(1 << 28))
COLUMNS = ("requests/s", "responses/s", "tokens/s", "CPU ms per request")


class TokenClient(TritonClient):
    """A client of `tensorrt_llm`, on whose connection each request has a stream."""

    def encode(self, request: BenchRequest, seed: int) -> bytes:
        """See `Client`."""
        prompt = request.prompt_token_ids
        message = service_pb2.ModelInferRequest(model_name=MODEL)
        for name, data_type, values in (
            ("input_ids", "INT32", np.array([prompt], np.int32)),
            ("input_lengths", "INT32", np.array([[len(prompt)]], np.int32)),
            ("request_output_len", "INT32", np.array([[request.output_tokens]], np.int32)),
            ("seed", "UINT64", np.array([[seed]], np.uint64)),
            ("end_id", "INT32", np.array([[-1]], np.int32)),
            ("streaming", "BOOL", np.array([[True]])),
        ):
            message.inputs.add(name=name, datatype=data_type, shape=values.shape)
            message.raw_input_contents.append(values.tobytes())
        encoded: bytes = message.SerializeToString()
        return encoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument("engine", type=Path, help="engine directory; its tokenizer is needed")
    parser.add_argument("--rounds", type=int, default=4, help="of both backends (%(default)s)")
    parser.add_argument("--users", type=int, default=16, help="streams at once (%(default)s)")
    parser.add_argument("--requests", type=int, default=256, help="of a round (%(default)s)")
    parser.add_argument("--output_len", type=int, default=64, help="tokens (%(default)s)")


def backends(args: argparse.Namespace) -> int:
    """Prints a line of JSON per run, and the medians."""
    with Engine(args.engine) as engine:
        vocab_size = engine.info.vocab_size
    requests = random_requests(
        args.requests, Span(4, 4), Span(args.output_len, args.output_len), vocab_size,
        np.random.default_rng(0),
    )  # fmt: skip
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in BACKENDS}
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(args.engine, [*OPTIONS, "--backend", name]))
            for name in BACKENDS
        }
        for number in range(args.rounds + 1):
            for name in BACKENDS if number % 2 else reversed(BACKENDS):
                measured = asyncio.run(_measure(servers[name], requests, args.users))
                if number == 0:  # caches, connections, threads
                    continue
                runs[name].append(measured)
                print(json.dumps({"backend": name, "round": number, **measured}), flush=True)
    print_medians(runs)
    return 0


def print_medians(runs: Mapping[str, list[dict[str, float]]]) -> None:
    """One line per backend."""
    print(f"{'':10}" + "".join(f"{name:>20}" for name in COLUMNS))
    for backend, measured in runs.items():
        medians = [statistics.median(run[name] for run in measured) for name in COLUMNS]
        print(f"{backend:10}" + "".join(f"{median:>20.1f}" for median in medians))


async def _measure(
    server: Server, requests: list[BenchRequest], num_users: int
) -> dict[str, float]:
    async with TokenClient(server.ready["grpc"], MODEL) as client:
        payloads = [client.encode(request, seed) for seed, request in enumerate(requests)]
        cpu_before, begin = sum(server.cpu_seconds().values()), time.monotonic()
        replies = await offer(client, payloads, np.zeros(len(payloads)), num_users)
        duration = time.monotonic() - begin
        cpu_s = sum(server.cpu_seconds().values()) - cpu_before
    num_tokens = 0
    num_responses = 0
    for reply in replies:
        for _, chunk in reply.chunks:
            response = service_pb2.ModelStreamInferResponse.FromString(chunk)
            if reply.error or response.error_message:
                raise RuntimeError(reply.error or response.error_message)
            num_responses += 1
            shapes = {output.name: output.shape for output in response.infer_response.outputs}
            num_tokens += shapes["output_ids"][2]
    values = (
        len(requests) / duration, num_responses / duration, num_tokens / duration,
        1e3 * cpu_s / len(requests),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
