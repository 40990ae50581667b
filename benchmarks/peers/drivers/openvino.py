# SPDX-License-Identifier: Apache-2.0
"""Measures OpenVINO GenAI through its continuous batching pipeline.

`LLMPipeline` runs on the same pipeline (its default attention backend on x86); used directly, one
compiled model serves single requests and the load, and every step can be timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from typing import Any

import numpy as np

from benchmarks.peers.drivers.measure import Request, Task, Timed, run_driver

OPENVINO: Any = importlib.import_module("openvino")
GENAI: Any = importlib.import_module("openvino_genai")
CACHE_GB = 1


class OpenVino:
    """A pipeline."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._num_requests = 0
        scheduler = GENAI.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = task.max_in_flight
        scheduler.enable_prefix_caching = False
        for name, value in task.extra.get("scheduler", {}).items():
            setattr(scheduler, name, value)
        properties = {
            "INFERENCE_NUM_THREADS": task.num_threads,
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",
            **task.extra.get("properties", {}),
        }
        self._pipeline = GENAI.ContinuousBatchingPipeline(task.model, scheduler, "CPU", properties)

    def describe(self) -> dict[str, Any]:
        """Version, what the precision means, options."""
        return {
            "name": "OpenVINO GenAI",
            "version": f"openvino-genai {importlib.metadata.version('openvino-genai')}",
            "kv_cache": self._task.extra.get("properties", {}).get(
                "KV_CACHE_PRECISION", "u8 (its default)"
            ),
            "class": {
                "bf16": "weights bfloat16 (from a float16 file), activations bfloat16",
                "int8": "weights INT8 per channel, activations INT8 in groups, found at run time",
                "int4": "weights INT4 in groups of 128, activations INT8 in groups",
            }[self._task.precision],
            "lm_head": self._task.extra["lm_head"],
            "options": self._task.extra,
        }

    def close(self) -> None:
        """Frees the pipeline."""
        del self._pipeline

    def generate(self, request: Request) -> Timed:
        """Runs one request and notes when each step ended."""
        begin = time.perf_counter()
        handle = self._add(request)
        times: list[float] = []
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            times.append(time.perf_counter() - begin)
        token_ids = list(handle.read_all()[0].generated_ids)
        # A long prompt may take steps that bring no token.
        return Timed(token_ids, times[len(times) - len(token_ids) :])

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        """Hands over all requests; the scheduler runs at most `max_in_flight` of them at a time."""
        handles = [self._add(request) for request in requests]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        return sum(len(handle.read_all()[0].generated_ids) for handle in handles)

    def _add(self, request: Request) -> Any:
        config = GENAI.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = request.num_tokens
        config.ignore_eos = True
        config.do_sample = False
        tokens = OPENVINO.Tensor(np.array([request.prompt], np.int64))
        self._num_requests += 1
        return self._pipeline.add_request(self._num_requests, tokens, config)


if __name__ == "__main__":
    run_driver(OpenVino)
