# SPDX-License-Identifier: Apache-2.0
"""The whole way: a checkpoint in, tokens streamed by Triton Inference Server out.

    python examples/demo.py

Builds an engine from the checkpoint in examples/demo, serves it, streams one completion over gRPC
and the same one over HTTP, and ends the server. Exits with 0 only when all of it went well.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from enginery.runtime.engine import Engine

CHECKPOINT = Path(__file__).parent / "demo"
OUTPUT = Path("build/demo")
BIN = Path(sys.executable).parent
MODEL = "enginery"
TIMEOUT_S = 60

# Drawn with a seed: both ways of asking must give the same text.
REQUEST = {
    "text_input": "And it came to pass in those days, that",
    "stream": True,
    "max_tokens": 160,
    "temperature": 0.7,
    "top_p": 0.95,
    "seed": 2026,
}
TENSORS = {str: ("BYTES", np.object_), bool: ("BOOL", np.bool_), float: ("FP32", np.float32)}
TENSORS_BY_NAME = {"max_tokens": ("INT32", np.int32), "seed": ("UINT64", np.uint64)}


@dataclass(frozen=True)
class Piece:
    """One response of a stream."""

    text: str
    num_tokens: int


@dataclass(frozen=True)
class Completion:
    """A finished stream, as its client saw it."""

    text: str
    num_tokens: int
    ttft_s: float
    total_s: float

    @property
    def tpot_s(self) -> float:
        return (self.total_s - self.ttft_s) / max(1, self.num_tokens - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="default: %(default)s")
    args = parser.parse_args()
    engine = args.output / "engine"
    build_engine(args.checkpoint, engine)
    show(engine)
    server, addresses = start_server(engine)
    try:
        heading(f"gRPC: {addresses['grpc']}, model {MODEL!r}")
        with triton.InferenceServerClient(addresses["grpc"]) as client:
            client.is_server_ready()  # connects: the completion's TTFT is the server's
            over_grpc = print_completion(stream_grpc(client))
        heading(f"HTTP: http://{addresses['http']}/v2/models/{MODEL}/generate_stream")
        with contextlib.closing(http.client.HTTPConnection(addresses["http"])) as connection:
            connection.connect()
            over_http = print_completion(stream_http(connection))
    except BaseException:
        server.kill()  # its tritonserver ends with it
        raise
    heading("Result")
    print_table({"gRPC": over_grpc, "HTTP": over_http})
    problems = stop_server(server, addresses)
    if over_grpc.text != over_http.text:
        problems.append("gRPC and HTTP gave different texts")
    for problem in problems:
        print(f"demo: error: {problem}", file=sys.stderr)
    if not problems:
        print("gRPC and HTTP gave the same text. The server ended cleanly: status 0, ports closed.")
    return 1 if problems else 0


def build_engine(checkpoint: Path, engine: Path) -> None:
    heading("Build an engine")
    command = command_line("build-engine", "--model", checkpoint, "--output", engine,
                           "--qformat", "int8_dynamic", "--overwrite")  # fmt: skip
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(f"demo: error: build-engine ended with status {status}")


def show(engine: Path) -> None:
    heading(f"The engine in {engine}")
    with Engine(engine) as opened:
        info = opened.info
    lines = {
        "target": f"{info.target}, SKU {info.sku}, kernels {info.variant}",
        "network": f"{info.architecture}, {info.num_layers} layers, hidden {info.hidden_size}, "
        f"{info.num_kv_heads} KV heads of {info.head_dim}, vocabulary {info.vocab_size}",
        "weights": f"{info.weight_bytes / 2**20:.1f} MiB, {info.qformat}, {info.dtype}",
        "KV cache": f"{info.kv_bytes_per_token} bytes per token, {info.kv_cache_dtype}, "
        f"blocks of {info.tokens_per_block} tokens",
        "limits": f"max_batch_size {info.max_batch_size}, max_num_tokens {info.max_num_tokens}, "
        f"max_seq_len {info.max_seq_len}",
    }
    for name, value in lines.items():
        print(f"  {name:<9} {value}")


def start_server(engine: Path) -> tuple[subprocess.Popen[str], dict[str, str]]:
    """Starts `enginery serve` on free ports; returns it and its addresses."""
    heading("Serve it with Triton Inference Server")
    command = command_line("enginery", "serve", engine, "--model_name", MODEL, "--http_port", 0,
                           "--grpc_port", 0, "--metrics_port", 0)  # fmt: skip
    started = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line:
        raise SystemExit(f"demo: error: the server did not start: status {server.wait()}")
    print(f"  ready after {time.perf_counter() - started:.1f} s")
    return server, json.loads(line)


def stop_server(server: subprocess.Popen[str], addresses: dict[str, str]) -> list[str]:
    """Ends the server as an orchestrator would; returns what went wrong."""
    server.send_signal(signal.SIGTERM)
    status = server.wait(TIMEOUT_S)
    problems = [] if status == 0 else [f"the server ended with status {status}"]
    for name in ("grpc", "http", "metrics"):
        host, port = addresses[name].split("/")[0].split(":")
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                problems.append(f"the {name} port {port} is still open")
    return problems


def stream_grpc(client: Any) -> Iterator[Piece]:
    """Yields the responses to REQUEST as they come."""
    responses: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    inputs = []
    for name, value in REQUEST.items():
        data_type, dtype = TENSORS_BY_NAME.get(name) or TENSORS[type(value)]
        inputs.append(triton.InferInput(name, [1], data_type))
        inputs[-1].set_data_from_numpy(np.array([value], dtype))
    client.start_stream(lambda result, error: responses.put((result, error)))
    client.async_stream_infer(MODEL, inputs)
    finish_reason = b""
    while not finish_reason:
        result, error = responses.get(timeout=TIMEOUT_S)
        if error is not None:
            raise error
        finish_reason = result.as_numpy("finish_reason")[0]
        text = result.as_numpy("text_output")[0].decode()
        yield Piece(text, len(result.as_numpy("output_ids")))


def stream_http(connection: http.client.HTTPConnection) -> Iterator[Piece]:
    """Yields the server-sent events that answer REQUEST as they come."""
    connection.request("POST", f"/v2/models/{MODEL}/generate_stream", json.dumps(REQUEST))
    for line in connection.getresponse():
        if line.startswith(b"data: "):
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(event["error"])
            # Triton server writes an array of one element as that element.
            yield Piece(event["text_output"], np.size(event["output_ids"]))


def print_completion(pieces: Iterator[Piece]) -> Completion:
    """Prints a stream as it comes and times it."""
    print(REQUEST["text_input"], end="", flush=True)
    text, num_tokens, ttft_s = "", 0, 0.0
    started = time.perf_counter()
    for piece in pieces:
        ttft_s = ttft_s or time.perf_counter() - started
        text += piece.text
        num_tokens += piece.num_tokens
        print(piece.text, end="", flush=True)
    total_s = time.perf_counter() - started
    print()
    return Completion(text, num_tokens, ttft_s, total_s)


def print_table(completions: dict[str, Completion]) -> None:
    print(f"  {'':6}{'tokens':>8}{'TTFT ms':>10}{'TPOT ms':>10}{'tokens/s':>10}")
    for name, it in completions.items():
        times = f"{it.ttft_s * 1e3:>10.2f}{it.tpot_s * 1e3:>10.3f}"
        print(f"  {name:6}{it.num_tokens:>8}{times}{it.num_tokens / it.total_s:>10.0f}")


def heading(text: str) -> None:
    width = max(0, min(shutil.get_terminal_size().columns, 100) - len(text) - 4)
    print(f"\n== {text} {'=' * width}", flush=True)


def command_line(name: str, *args: str | Path | int) -> list[str]:
    """The arguments of a command of this environment; prints it as one would type it."""
    words = [str(arg) for arg in args]
    print("$", name, *words, flush=True)
    return [str(BIN / name), *words]


if __name__ == "__main__":
    sys.exit(main())
