# SPDX-License-Identifier: Apache-2.0
"""Measures llama.cpp through its C interface, by the ctypes declarations of llama-cpp-python.

Requests run as llama-server runs them: every step carries the next token of each running sequence
and, in the room that is left, prompts of those that wait. No HTTP and no sampler chain are in the
way: the largest logit is taken with numpy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.peers.drivers.measure import Request, Task, Timed, run_driver

LLAMA: Any = importlib.import_module("llama_cpp")
MAX_BATCH_TOKENS = 2048  # llama-server's default, as is the next.
MAX_MICRO_BATCH_TOKENS = 512


@dataclass
class Sequence:
    """A request that runs in slot `slot`."""

    request: Request
    slot: int
    num_prefilled: int = 0
    token_ids: list[int] = field(default_factory=list)


class LlamaCpp:
    """A model and the context of the moment."""

    def __init__(self, task: Task) -> None:
        LLAMA.llama_backend_init()
        self._task = task
        self._log = LLAMA.llama_log_callback(lambda level, text, data: None)
        LLAMA.llama_log_set(self._log, None)
        params = LLAMA.llama_model_default_params()
        self._model = LLAMA.llama_model_load_from_file(task.model.encode(), params)
        if not self._model:
            raise RuntimeError(f"{task.model}: llama.cpp cannot load it")
        self._num_vocab = LLAMA.llama_vocab_n_tokens(LLAMA.llama_model_get_vocab(self._model))
        self._batch = LLAMA.llama_batch_init(MAX_BATCH_TOKENS, 0, 1)
        self._context: Any = None
        self._make_context(1)

    def describe(self) -> dict[str, Any]:
        """Version and what the processor features of this build are."""
        return {
            "name": "llama.cpp",
            "version": f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}",
            "features": LLAMA.llama_print_system_info().decode(),
            "kv_cache": "f16",
            "class": {
                "bf16": "weights bfloat16, activations bfloat16",
                "int8": "Q8_0: weights INT8 in blocks of 32, activations INT8 in blocks of 32",
                "int4": "Q4_0: weights INT4 in blocks of 32, activations INT8 in blocks of 32",
            }[self._task.precision],
            "lm_head": self._task.extra["lm_head"],
        }

    def close(self) -> None:
        """Frees everything."""
        LLAMA.llama_batch_free(self._batch)
        LLAMA.llama_free(self._context)
        LLAMA.llama_model_free(self._model)

    def generate(self, request: Request) -> Timed:
        """Runs one request in a context for one sequence."""
        self._make_context(1)
        times: list[float] = []
        begin = time.perf_counter()
        sequence = Sequence(request, 0)
        while len(sequence.token_ids) < request.num_tokens:
            self._step([sequence])
            times.append(time.perf_counter() - begin)
        self._forget(0)
        return Timed(sequence.token_ids, times)

    def serve(self, requests: list[Request], max_in_flight: int) -> int:
        """Continuous batching: a sequence that ends gives its slot to the next request."""
        self._make_context(max_in_flight)
        waiting = list(reversed(requests))
        free = list(range(max_in_flight))
        running: list[Sequence] = []
        num_tokens = 0
        while waiting or running:
            while waiting and free:
                running.append(Sequence(waiting.pop(), free.pop(free.index(min(free)))))
            # llama.cpp joins neighbouring slots in one pass, and only in ascending order.
            running.sort(key=lambda sequence: sequence.slot)
            self._step(running)
            for sequence in running:
                if len(sequence.token_ids) == sequence.request.num_tokens:
                    num_tokens += len(sequence.token_ids)
                    self._forget(sequence.slot)
                    free.append(sequence.slot)
            running = [s for s in running if len(s.token_ids) < s.request.num_tokens]
        return num_tokens

    def _make_context(self, num_slots: int) -> None:
        if self._context is not None:
            if LLAMA.llama_n_seq_max(self._context) == num_slots:
                return
            LLAMA.llama_free(self._context)
        params = LLAMA.llama_context_default_params()
        params.n_ctx = num_slots * self._task.max_seq_len
        params.n_batch, params.n_ubatch = MAX_BATCH_TOKENS, MAX_MICRO_BATCH_TOKENS
        params.n_seq_max = num_slots
        params.n_threads = params.n_threads_batch = self._task.num_threads
        params.no_perf = True
        self._context = LLAMA.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")

    def _forget(self, slot: int) -> None:
        LLAMA.llama_memory_seq_rm(LLAMA.llama_get_memory(self._context), slot, -1, -1)

    def _step(self, running: list[Sequence]) -> None:
        """One llama_decode: decodes first, then prompts while there is room."""
        self._batch.n_tokens = 0
        outputs: list[tuple[int, Sequence]] = []
        for sequence in running:
            if sequence.token_ids:
                position = len(sequence.request.prompt) + len(sequence.token_ids) - 1
                row = self._put(sequence.token_ids[-1], position, sequence.slot, True)
                outputs.append((row, sequence))
        for sequence in running:
            prompt = sequence.request.prompt
            begin = sequence.num_prefilled
            end = min(len(prompt), begin + MAX_BATCH_TOKENS - self._batch.n_tokens)
            for position in range(begin, end):
                is_last = position + 1 == len(prompt)
                row = self._put(prompt[position], position, sequence.slot, is_last)
                if is_last:
                    outputs.append((row, sequence))
            sequence.num_prefilled = end
        status = LLAMA.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        for row, sequence in outputs:
            logits = LLAMA.llama_get_logits_ith(self._context, row)
            array = np.ctypeslib.as_array(logits, shape=(self._num_vocab,))
            sequence.token_ids.append(int(array.argmax()))

    def _put(self, token_id: int, position: int, slot: int, wants_logits: bool) -> int:
        batch, row = self._batch, self._batch.n_tokens
        batch.token[row], batch.pos[row] = token_id, position
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, slot
        batch.logits[row] = wants_logits
        batch.n_tokens = row + 1
        return int(row)


if __name__ == "__main__":
    run_driver(LlamaCpp)
