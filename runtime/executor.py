# SPDX-License-Identifier: Apache-2.0
"""Executors written in Python: the `enginery_executor` struct filled with their methods."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import abi
from .batch import ScheduledBatch


@dataclass(frozen=True)
class Limits:
    """What a runtime will ask of its executor at most; as `enginery_limits`."""

    max_batch_size: int
    max_num_tokens: int
    max_logit_rows: int
    max_seq_len: int
    tokens_per_block: int


@dataclass(frozen=True)
class ExecutorInfo:
    """What an executor made of its limits; as `enginery_executor_info`."""

    vocab_size: int
    num_blocks: int
    """KV blocks that `kv_cache_bytes` pays for, at least 1."""
    block_bytes: int = 0
    workspace_bytes: int = 0


@dataclass(frozen=True)
class StepOutput:
    """What a step gives back."""

    logits: npt.NDArray[np.float32]
    """float32 [num_logit_rows, vocab_size]."""
    token_ids: npt.NDArray[np.int32] | None = None
    """int32 [num_samples], -1 where the executor did not sample; None: none sampled."""


class Executor(Protocol):
    """What runs one step of a model.

    All calls come from the runtime's step thread, never two at a time. An exception fails the
    requests of the step, with its text as their error; the next step is tried with others.
    """

    def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
        """Called once, before anything else. Allocates the KV cache and the workspace."""

    def execute(self, batch: ScheduledBatch) -> None:
        """Starts a step; may return before it is done. The batch is read-only."""

    def collect(self) -> StepOutput:
        """Waits for the step that `execute` started and returns its logits."""

    def close(self) -> None:
        """Called once, last. Frees everything."""


class ExecutorTable:
    """The C struct over a Python executor.

    It owns the callbacks and the last step's arrays: it must outlive the runtime that uses it.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._is_closed = False
        self._vocab_size = 0
        self._num_logit_rows = 0
        self._num_samples = 0
        self._output: StepOutput | None = None
        self._last_error = ctypes.create_string_buffer(b"")
        self.struct = abi.Executor(
            abi_size=ctypes.sizeof(abi.Executor),
            ctx=None,
            init=abi.ExecutorInit(self._init),
            execute=abi.ExecutorExecute(self._execute),
            collect=abi.ExecutorCollect(self._collect),
            last_error=abi.ExecutorLastError(lambda _: ctypes.addressof(self._last_error)),
            destroy=abi.ExecutorDestroy(self._destroy),
        )

    def _guarded(self, call: Callable[[], None]) -> int:
        """Runs `call`; an exception becomes a status and a message, never leaves into C."""
        try:
            call()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
            self._last_error = ctypes.create_string_buffer(text.encode("utf-8", "replace"))
            out_of_memory = isinstance(error, MemoryError)
            return abi.STATUSES["OUT_OF_MEMORY" if out_of_memory else "EXECUTOR_FAILED"]
        return abi.OK

    def _init(self, _: Any, limits: Any, kv_cache_bytes: int, info: Any) -> int:
        def call() -> None:
            given = limits.contents
            made = self._executor.init(
                Limits(**{name: getattr(given, name) for name in Limits.__dataclass_fields__}),
                kv_cache_bytes,
            )
            self._vocab_size = made.vocab_size
            for name in ExecutorInfo.__dataclass_fields__:
                setattr(info.contents, name, getattr(made, name))

        return self._guarded(call)

    def _execute(self, _: Any, batch: Any) -> int:
        def call() -> None:
            view = ScheduledBatch.from_address(ctypes.addressof(batch.contents))
            self._num_logit_rows = len(view.logit_rows)
            self._num_samples = len(view.samples)
            self._output = None
            self._executor.execute(view)

        return self._guarded(call)

    def _collect(self, _: Any, output: Any) -> int:
        def call() -> None:
            made = self._executor.collect()
            logits = np.ascontiguousarray(made.logits, np.float32)
            if logits.shape != (self._num_logit_rows, self._vocab_size):
                raise ValueError(
                    f"logits have shape {logits.shape}, the step wants "
                    f"({self._num_logit_rows}, {self._vocab_size})"
                )
            token_ids = made.token_ids
            if token_ids is not None:
                token_ids = np.ascontiguousarray(token_ids, np.int32)
                if token_ids.shape != (self._num_samples,):
                    raise ValueError(
                        f"token_ids have shape {token_ids.shape}, the step wants "
                        f"({self._num_samples},)"
                    )
                output.contents.token_ids = token_ids.ctypes.data_as(abi.int32_pointer)
            else:
                output.contents.token_ids = abi.int32_pointer()
            output.contents.logits = logits.ctypes.data_as(abi.float_pointer)
            # The C side reads the arrays until the next execute.
            self._output = StepOutput(logits, token_ids)

        return self._guarded(call)

    def _destroy(self, _: Any) -> None:
        # An exception here has no one to go to: ctypes hands it to sys.unraisablehook.
        self.close()

    def close(self) -> None:
        """Closes the executor, once; the runtime does it, or whoever could not make a runtime."""
        self._output = None
        if not self._is_closed:
            self._is_closed = True
            self._executor.close()
