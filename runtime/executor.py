# SPDX-License-Identifier: Apache-2.0
"""Executors written in Python: the `enginery_executor` struct filled with their methods."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from . import abi
from .batch import ScheduledBatch
from .errors import EngineryError

FREE_MEMORY_FRACTION = 0.9
"""Of a device's free memory, for the KV cache."""


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

    logits: npt.NDArray[np.float32] | None
    """float32 [num_logit_rows, vocab_size]. None spares the copy when nobody reads it: every record
    of `ScheduledBatch.samples` is without SAMPLE_HOST_ONLY and has a token id of at least 0, and
    every row is the `logit_row` of some record."""
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


@runtime_checkable
class ChoosesKvCache(Protocol):
    """An executor with a device of its own, whose free memory only it knows."""

    def default_kv_cache_bytes(self, fraction: float, limits: Limits) -> int:
        """The budget of the KV cache when none was given; called before `init`, at most once.

        Args:
            fraction: share of the device's memory to take, in (0, 1), of what is free beside the
                weights and the workspace for `limits`.
            limits: what `init` will be called with.

        Returns:
            Bytes, of all ranks.
        """


class ExecutorTable:
    """The C struct over a Python executor.

    It owns the callbacks and the last step's arrays: it must outlive the runtime that uses it.

    Args:
        executor: is closed with the table.
        chooses_kv_cache: the budget that comes with `init` is the C side's guess from the host's
            memory; an executor that `ChoosesKvCache` is asked instead.
        free_memory_fraction: for that question; None: `FREE_MEMORY_FRACTION`.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        chooses_kv_cache: bool = False,
        free_memory_fraction: float | None = None,
    ) -> None:
        self._executor = executor
        self._chooses_kv_cache = chooses_kv_cache
        self._free_memory_fraction = free_memory_fraction or FREE_MEMORY_FRACTION
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
            status = "EXECUTOR_FAILED"
            if isinstance(error, EngineryError):
                text, status = str(error), error.status
            elif isinstance(error, MemoryError):
                status = "OUT_OF_MEMORY"
            self._last_error = ctypes.create_string_buffer(text.encode("utf-8", "replace"))
            return abi.STATUSES[status]
        return abi.OK

    def _init(self, _: Any, limits: Any, kv_cache_bytes: int, info: Any) -> int:
        def call() -> None:
            raw = limits.contents
            given = Limits(**{name: getattr(raw, name) for name in Limits.__dataclass_fields__})
            budget = kv_cache_bytes
            if self._chooses_kv_cache and isinstance(self._executor, ChoosesKvCache):
                budget = self._executor.default_kv_cache_bytes(self._free_memory_fraction, given)
            made = self._executor.init(given, budget)
            self._vocab_size = made.vocab_size
            for name in ExecutorInfo.__dataclass_fields__:
                setattr(info.contents, name, getattr(made, name))

        return self._guarded(call)

    def _execute(self, _: Any, batch: int) -> int:
        def call() -> None:
            view = ScheduledBatch.from_address(batch)
            self._num_logit_rows = len(view.logit_rows)
            self._num_samples = len(view.samples)
            self._output = None
            self._executor.execute(view)

        return self._guarded(call)

    def _collect(self, _: Any, output: Any) -> int:
        def call() -> None:
            made = self._executor.collect()
            logits = _checked(
                "logits", made.logits, np.float32, (self._num_logit_rows, self._vocab_size)
            )
            token_ids = _checked("token_ids", made.token_ids, np.int32, (self._num_samples,))
            # The C side reads the arrays until the next execute.
            self._output = StepOutput(logits, token_ids)
            contents = output.contents
            contents.logits = None if logits is None else logits.ctypes.data
            contents.token_ids = None if token_ids is None else token_ids.ctypes.data

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


def _checked(
    name: str, array: npt.NDArray[Any] | None, dtype: Any, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    """The array as C reads it; what it is must be what the step wants."""
    if array is None:
        return None
    array = np.ascontiguousarray(array, dtype)
    if array.shape != shape:
        raise ValueError(f"{name} have shape {array.shape}, the step wants {shape}")
    return array
