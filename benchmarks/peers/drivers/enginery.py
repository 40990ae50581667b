# SPDX-License-Identifier: Apache-2.0
"""Measures Enginery through its Python runtime, and its first token through the C interface."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from benchmarks.peers.drivers.measure import Request, Task, Timed, run_driver
from enginery.runtime.engine import Engine
from enginery.runtime.library import library_version
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams


class Enginery:
    """An engine and its runtime."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._engine = Engine(task.model)
        options = RuntimeOptions(
            num_threads=task.num_threads,
            max_batch_size=task.max_in_flight,
            kv_cache_bytes=task.max_in_flight
            * task.max_seq_len
            * self._engine.info.kv_bytes_per_token,
            enable_block_reuse=False,
            isa=task.extra.get("isa"),
        )
        self._runtime = Runtime(self._engine, options)

    def describe(self) -> dict[str, Any]:
        """Version, what the precision means, and the bytes that memory is judged by."""
        info = self._engine.info
        return {
            "name": "Enginery",
            "version": f"enginery {library_version()}",
            "executor": self._runtime.executor_name,
            "kv_cache": info.kv_cache_dtype,
            "class": {
                "bf16": "weights bfloat16, activations bfloat16",
                "int8": "weights INT8 per channel, activations INT8 per token",
                "int4": "weights INT4 in groups of 128, activations INT8 per token",
            }[self._task.precision],
            "qformat": info.qformat,
            "lm_head": self._task.extra["lm_head"],
            "weight_mb": info.weight_bytes / 2**20,
            "kv_mb": self._runtime.stats().num_blocks
            * info.tokens_per_block
            * info.kv_bytes_per_token
            / 2**20,
        }

    def close(self) -> None:
        """Frees runtime and engine."""
        self._runtime.close()
        self._engine.close()

    def generate(self, request: Request) -> Timed:
        """Runs one request; tokens are timed when the runtime has them."""
        begin = time.monotonic()
        self._submit(request)
        token_ids: list[int] = []
        times: list[float] = []
        is_done = False
        while not is_done:
            for event in self._runtime.poll(1000):
                token_ids += event.token_ids
                assert event.last_token_ns is not None or not event.token_ids
                times += [(event.last_token_ns or 0) / 1e9 - begin] * len(event.token_ids)
                is_done = event.is_last
        return Timed(token_ids, times)

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        """Hands over all requests; the runtime's batch holds at most `max_in_flight`."""
        for request in requests:
            self._submit(request)
        num_open, num_tokens = len(requests), 0
        while num_open:
            for event in self._runtime.poll(1000):
                num_tokens += len(event.token_ids)
                num_open -= event.is_last
        return num_tokens

    def _submit(self, request: Request) -> None:
        params = SamplingParams(max_tokens=request.num_tokens, ignore_eos=True, temperature=0.0)
        self._runtime.submit(request.prompt, params)


def probe_first_token(task: Task) -> dict[str, Any]:
    """Runs benchmarks/first_token.c, twice: a process without Python, from open to first token."""
    command = [task.extra["probe"], task.model, "16", str(task.num_threads)]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise RuntimeError(f"first_token: {done.stderr.strip()}")
    probe: dict[str, Any] = json.loads(done.stdout)
    return {"first_token_ms": probe["total_ms"], "c_interface": probe}


if __name__ == "__main__":
    run_driver(Enginery, probe_first_token)
