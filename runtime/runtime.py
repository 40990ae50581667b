# SPDX-License-Identifier: Apache-2.0
"""The serving loop over one engine: submit requests, poll what happens to them."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from . import abi
from .engine import Engine
from .errors import InvalidArgumentError, NotFoundError, ShutDownError
from .event import Event, read_event
from .executor import ChoosesKvCache, Executor, ExecutorTable
from .executor_choice import make_executor
from .library import check, load_library, take_string
from .profile import ProfileRecord
from .request import RequestStruct, TokenIds
from .sampling_params import SamplingParams

# Options that the C side has no part in.
_PYTHON_OPTIONS = ("executor", "sku", "free_gpu_memory_fraction")
_TEXT_OPTIONS = ("isa", "watchdog_dir")


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Options of `Runtime`; 0 leaves a limit to the engine. As `enginery_runtime_options`."""

    kv_cache_bytes: int = 0
    """Budget of the KV cache; 0: enough for max_batch_size sequences of max_seq_len, at most half
    of the free memory; for an executor with a device, `free_gpu_memory_fraction` of its memory."""
    max_batch_size: int = 0
    max_num_tokens: int = 0
    max_queue_size: int = 0
    """Waiting requests before QueueFullError; 0: no bound."""
    policy: str = "GUARANTEED_NO_EVICT"
    """Or "MAX_UTILIZATION" or "STATIC_BATCH"."""
    enable_chunked_context: bool = True
    """Whether long prompts are prefilled in pieces beside decodes."""
    enable_block_reuse: bool = True
    """Whether equal prefixes share their KV blocks (prefix cache)."""
    max_chunk_tokens: int = 0
    """The longest piece of a prompt in one step; 0: max_num_tokens."""
    num_threads: int = 0
    """Of the cpu executor; 0: as many as this process may run on (affinity mask and cgroup)."""
    pin_threads: bool = False
    """Whether each of them, the step thread too, is held on a CPU of its own."""
    isa: str | None = None
    """Of the cpu executor: "auto", "amx", "avx512", "avx2", "portable"; None: ENGINERY_ISA."""
    iteration_stats_capacity: int = 1000
    """Iterations kept for `Runtime.iterations`."""
    watchdog_timeout_ms: int = 0
    """A step that takes so long is a stall: the state of the serving loop is written to a file, and
    `on_stall` of `Runtime` called; 0: off."""
    watchdog_dir: str | None = None
    """Folder of these files; None: the one for temporary files."""
    free_gpu_memory_fraction: float | None = None
    """Share of the device's free memory for the KV cache when `kv_cache_bytes` is 0, for executors
    that have a device; None: 0.9."""
    executor: str | None = None
    """Import string "package.module:factory" of what runs the steps; None: the target's."""
    sku: str | None = None
    """Which SKU of an engine that was built for several; None: the executor's choice."""


@dataclass(frozen=True)
class Stats:
    """Counters since the start and the state at this moment; as `enginery_stats`."""

    num_iterations: int
    num_waiting: int
    num_running: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    num_requests: int
    num_finished: int
    num_preemptions: int
    num_prompt_tokens: int
    num_reused_tokens: int
    num_output_tokens: int
    step_ns: int
    scheduler_ns: int
    block_bytes: int
    workspace_bytes: int
    num_scheduled_tokens: int
    step_time_counts: tuple[int, ...]
    """Entry i: steps of at most 100 us * 2**i, and of more than the entry before it; the last one:
    all that took longer."""


@dataclass(frozen=True)
class Iteration:
    """One step of the serving loop."""

    iteration: int
    start_ns: int
    duration_ns: int
    executor_ns: int
    num_sequences: int
    num_prefill_tokens: int
    num_decode_tokens: int
    num_waiting: int
    num_used_blocks: int
    num_preempted: int


class Runtime:
    """The C++ serving loop, with its step thread, over an engine.

    Everything may be called from any thread. `close` waits until no other thread is in a call; a
    thread that polls is woken by it.

    Args:
        engine: stays open while the runtime is; several runtimes may share it.
        options: limits, policy, threads.
        executor: what runs the steps, in place of `options.executor`: an object, or an import
            string; None: the executor of the engine's target. An object is closed by the runtime,
            also when the runtime cannot be made.
        executor_options: further arguments of the factory that an import string names.
        on_stall: called with the path of the file ("" when it could not be written) and a message
            when a step stalls (`watchdog_timeout_ms`), on a thread of its own; it may end the
            process, and must not close the runtime.

    Raises:
        InvalidArgumentError: an option is out of range, or the executor cannot be imported.
        EngineMismatchError: the engine is for another target, or has an op that the executor lacks.
        OutOfMemoryError: the KV cache or the workspace cannot be had.
    """

    def __init__(
        self,
        engine: Engine,
        options: RuntimeOptions | None = None,
        *,
        executor: Executor | str | None = None,
        executor_options: Mapping[str, Any] | None = None,
        on_stall: Callable[[str, str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.options = options or RuntimeOptions()
        chosen = make_executor(
            engine,
            executor if executor is not None else self.options.executor,
            sku=self.options.sku,
            options=executor_options,
        )
        self._library = load_library()
        self._calls = 0
        self._idle = threading.Condition()
        self._handle: ctypes.c_void_p | None = None
        # The struct is copied by create; the callbacks in it are called until destroy.
        self._executor_table: ExecutorTable | None = None
        self._on_stall = _stall_callback(on_stall)
        self._executor_name = ""
        if chosen is not None:
            self._executor_name = str(getattr(chosen, "name", type(chosen).__name__))
            self._executor_table = ExecutorTable(
                chosen,
                chooses_kv_cache=self.options.kv_cache_bytes == 0,
                free_memory_fraction=self.options.free_gpu_memory_fraction,
            )
        try:
            self._check_memory_fraction(chosen)
            raw = self._raw_options(self.options)
            handle = ctypes.c_void_p()
            check(
                self._library.enginery_runtime_create(
                    engine.handle, ctypes.byref(raw), ctypes.byref(handle)
                )
            )
        except BaseException:
            # Only a runtime that was made closes its executor.
            if self._executor_table is not None:
                self._executor_table.close()
            raise
        self._handle = handle

    def submit(
        self,
        prompt_token_ids: TokenIds,
        sampling_params: SamplingParams | None = None,
        *,
        streaming: bool = True,
        priority: int = 0,
        timeout_ms: int = 0,
        bad_token_sequences: Sequence[TokenIds] = (),
        client_request_id: str = "",
    ) -> int:
        """Queues a request and returns its id, unique in this runtime and never 0.

        Args:
            prompt_token_ids: int [num_prompt_tokens], each in [0, vocab_size).
            sampling_params: None: the defaults.
            streaming: True: an event whenever tokens come; False: one per sequence at its end.
            priority: larger is admitted first.
            timeout_ms: ends with "TIMEOUT" so long after now; 0: never.
            bad_token_sequences: the tokens of the words in `sampling_params.bad`, which only a
                tokenizer knows; `Tokenizer.bad_token_sequences` gives them.
            client_request_id: what the caller calls it, for the watchdog's file; at most 256 bytes.

        Raises:
            InvalidArgumentError: names the field, its value and what is accepted.
            QueueFullError: `max_queue_size` requests wait already.
            ShutDownError: `shutdown` or `close` was called.
        """
        params = sampling_params or SamplingParams()
        if params.bad and not bad_token_sequences:
            raise InvalidArgumentError(
                f"bad = {list(params.bad)!r}: words need a tokenizer; give their tokens as "
                "bad_token_sequences, or submit through LLM"
            )
        request = RequestStruct(
            prompt_token_ids,
            params,
            vocab_size=self.engine.info.vocab_size,
            bad_token_sequences=bad_token_sequences,
            streaming=streaming,
            priority=priority,
            timeout_ms=timeout_ms,
            client_request_id=client_request_id,
        )
        request_id = ctypes.c_uint64()
        with self._call() as handle:
            check(
                self._library.enginery_runtime_submit(
                    handle, ctypes.byref(request.struct), ctypes.byref(request_id)
                )
            )
        return request_id.value

    def cancel(self, request_id: int) -> bool:
        """Ends a request soon, with "CANCELLED"; False when it has ended or never was."""
        with self._call() as handle:
            try:
                check(self._library.enginery_runtime_cancel(handle, request_id))
            except NotFoundError:
                return False
        return True

    def poll(self, timeout_ms: int = 1000) -> list[Event]:
        """Waits for events and returns all there are, in order; [] after `timeout_ms`.

        Args:
            timeout_ms: 0: does not wait; -1: waits for ever.

        Raises:
            ShutDownError: the runtime was shut down and its last event was polled.
        """
        events = ctypes.c_void_p()
        with self._call() as handle:
            check(self._library.enginery_runtime_poll(handle, timeout_ms, ctypes.byref(events)))
        try:
            count = self._library.enginery_events_count(events)
            vocab_size = self.engine.info.vocab_size
            get = self._library.enginery_events_get
            return [read_event(get(events, i).contents, vocab_size) for i in range(count)]
        finally:
            self._library.enginery_events_free(events)

    def stats(self) -> Stats:
        """Counters and the state at this moment."""
        raw = abi.Stats(abi_size=ctypes.sizeof(abi.Stats))
        with self._call() as handle:
            check(self._library.enginery_runtime_stats(handle, ctypes.byref(raw)))
        values = {name: getattr(raw, name) for name in Stats.__dataclass_fields__}
        return Stats(**{**values, "step_time_counts": tuple(raw.step_time_counts)})

    def iterations(self) -> list[Iteration]:
        """The last `iteration_stats_capacity` iterations, oldest first."""
        text = ctypes.c_void_p()
        with self._call() as handle:
            check(self._library.enginery_runtime_iterations_json(handle, ctypes.byref(text)))
        names = Iteration.__dataclass_fields__
        return [
            Iteration(**{name: entry[name] for name in names})
            for entry in json.loads(take_string(text))
        ]

    def set_profiling(self, enabled: bool) -> None:
        """Measures each op of every step from the next one on, or stops.

        Turning it on forgets what was measured before.

        Raises:
            NotSupportedError: the executor is not the built-in one.
        """
        with self._call() as handle:
            check(self._library.enginery_runtime_set_profiling(handle, int(enabled)))

    def profile(self) -> list[ProfileRecord]:
        """What was measured of the last steps (1024 at most): a record per kind of op and step.

        Raises:
            NotSupportedError: the executor is not the built-in one.
        """
        profile = ctypes.c_void_p()
        with self._call() as handle:
            check(self._library.enginery_runtime_profile(handle, ctypes.byref(profile)))
        try:
            get = self._library.enginery_profile_get
            count = self._library.enginery_profile_count(profile)
            return [ProfileRecord.read(get(profile, i).contents) for i in range(count)]
        finally:
            self._library.enginery_profile_free(profile)

    @property
    def executor_name(self) -> str:
        """Kernels of the cpu executor ("amx", "avx512", "avx2", "portable"), or its name."""
        with self._call() as handle:
            name = str(self._library.enginery_runtime_executor_name(handle).decode())
        return self._executor_name or name

    def shutdown(self, *, drain: bool = True, timeout_ms: int = -1) -> None:
        """Takes no more requests; what remains of their events can still be polled.

        Args:
            drain: True: waits until all requests are finished; False: cancels them.
            timeout_ms: how long to wait before the rest is cancelled; -1: for ever.
        """
        with self._call() as handle:
            check(self._library.enginery_runtime_shutdown(handle, int(drain), timeout_ms))

    def close(self) -> None:
        """Cancels what runs, joins the threads and frees everything; twice is harmless."""
        with self._idle:
            handle, self._handle = self._handle, None
        if handle is None:
            return
        # Wakes a thread that polls, so that the wait below ends.
        self._library.enginery_runtime_shutdown(handle, 0, 0)
        with self._idle:
            self._idle.wait_for(lambda: self._calls == 0)
        self._library.enginery_runtime_destroy(handle)
        self._executor_table = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()

    def _call(self) -> _Call:
        return _Call(self)

    def _check_memory_fraction(self, executor: Executor | None) -> None:
        fraction = self.options.free_gpu_memory_fraction
        if fraction is None:
            return
        if not 0 < fraction < 1:
            raise InvalidArgumentError(f"free_gpu_memory_fraction = {fraction}: must be in (0, 1)")
        if self.options.kv_cache_bytes:
            raise InvalidArgumentError("kv_cache_bytes, free_gpu_memory_fraction: give one of them")
        if not isinstance(executor, ChoosesKvCache):
            raise InvalidArgumentError(
                f"free_gpu_memory_fraction = {fraction}: is for executors with a device of their "
                "own; give kv_cache_bytes"
            )

    def _raw_options(self, options: RuntimeOptions) -> abi.RuntimeOptions:
        if options.policy not in abi.POLICIES:
            raise InvalidArgumentError(
                f"policy = {options.policy!r}: must be one of {', '.join(abi.POLICIES)}"
            )
        raw = abi.RuntimeOptions()
        self._library.enginery_runtime_options_init(ctypes.byref(raw), ctypes.sizeof(raw))
        for name in RuntimeOptions.__dataclass_fields__:
            if name in _PYTHON_OPTIONS:
                continue
            value: Any = getattr(options, name)
            if name == "policy":
                value = abi.POLICIES[value]
            elif name in _TEXT_OPTIONS:
                value = None if value is None else value.encode()
            else:
                bits = 8 * getattr(abi.RuntimeOptions, name).size
                if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
                    raise InvalidArgumentError(f"{name} = {value}: does not fit into {bits} bits")
            setattr(raw, name, value)
        if self._executor_table is not None:
            raw.executor = ctypes.pointer(self._executor_table.struct)
        raw.on_stall = self._on_stall
        return raw


def _stall_callback(on_stall: Callable[[str, str], None] | None) -> Any:
    """It as the library calls it, for as long as what is returned is kept."""
    if on_stall is None:
        return abi.OnStall()
    return abi.OnStall(lambda _, path, message: on_stall(os.fsdecode(path), message.decode()))


class _Call:
    """Keeps a runtime from being destroyed while a thread is in one of its functions."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __enter__(self) -> ctypes.c_void_p:
        with self._runtime._idle:
            handle = self._runtime._handle
            if handle is None:
                raise ShutDownError("the runtime is closed")
            self._runtime._calls += 1
            return handle

    def __exit__(self, *_: object) -> None:
        with self._runtime._idle:
            self._runtime._calls -= 1
            if self._runtime._calls == 0:
                self._runtime._idle.notify_all()
