# SPDX-License-Identifier: Apache-2.0
"""The configuration objects of `LLM`, in TensorRT-LLM's names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import abi
from .engine import EngineInfo
from .errors import InvalidArgumentError
from .options import Unsupported, explains_unknown_options

_KV_UNSUPPORTED: Unsupported = {
    "max_attention_window": ((), "a model's sliding window is part of its engine"),
    "sink_token_length": ((0,), "attention sinks are not built"),
    "host_cache_size": ((0,), "offload of the KV cache is not built"),
    "onboard_blocks": ((), "offload of the KV cache is not built"),
    "cross_kv_cache_fraction": ((), "there are no encoder-decoder models"),
    "secondary_offload_min_priority": ((), "offload of the KV cache is not built"),
    "event_buffer_max_size": ((0,), "there are no KV cache events"),
    "enable_partial_reuse": ((False,), "whole blocks are shared, not parts of one"),
    "copy_on_partial_reuse": ((False,), "whole blocks are shared, not parts of one"),
}


@explains_unknown_options(_KV_UNSUPPORTED)
@dataclass(frozen=True, kw_only=True)
class KvCacheConfig:
    """How large the KV cache is; at most one size may be given.

    With none, it holds max_batch_size sequences of max_seq_len, in at most half of the memory that
    is free (target cpu), or takes 0.9 of the device's free memory.

    Raises:
        InvalidArgumentError: lists every option that is out of range, unsupported or unknown.
    """

    kv_cache_bytes: int | None = None
    """Absolute budget."""
    max_tokens: int | None = None
    """Budget in tokens, over all sequences."""
    free_gpu_memory_fraction: float | None = None
    """Share of the memory free at this moment, host memory on the cpu target; (0, 1)."""
    kv_cache_free_gpu_mem_fraction: float | None = None
    """The same under its older name."""
    enable_block_reuse: bool = True
    """Whether equal prefixes share their blocks (prefix cache)."""
    dtype: str = "auto"
    """The engine's, which is fixed when it is built; another is refused."""

    def __post_init__(self) -> None:
        problems = []
        for name in ("kv_cache_bytes", "max_tokens"):
            value = getattr(self, name)
            is_int = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (is_int and value >= 1):
                problems.append(f"{name} = {value!r}: must be None or an integer >= 1")
        for name in ("free_gpu_memory_fraction", "kv_cache_free_gpu_mem_fraction"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, float | int) and 0 < value < 1):
                problems.append(f"{name} = {value!r}: must be None or in (0, 1)")
        sizes = [
            name
            for name in KvCacheConfig.__dataclass_fields__
            if name not in ("enable_block_reuse", "dtype") and getattr(self, name) is not None
        ]
        if len(sizes) > 1:
            problems.append(f"{', '.join(sizes)}: give one of them")
        if problems:
            raise InvalidArgumentError.from_problems("KvCacheConfig", problems)

    @property
    def memory_fraction(self) -> float | None:
        """The share of the free memory, under whichever name it was given."""
        return self.free_gpu_memory_fraction or self.kv_cache_free_gpu_mem_fraction

    def bytes_for(self, info: EngineInfo) -> int:
        """The budget in bytes for an engine; 0 leaves it to the runtime.

        Memory that is not the host's is known to the executor: it takes `memory_fraction` of it.

        Raises:
            InvalidArgumentError: the engine's KV cache has another dtype.
        """
        if self.dtype not in ("auto", info.kv_cache_dtype):
            raise InvalidArgumentError(
                f"KvCacheConfig: dtype = {self.dtype!r}: the engine was built with "
                f"{info.kv_cache_dtype!r}; build it again with --kv_cache_dtype {self.dtype}"
            )
        if self.max_tokens is not None:
            num_blocks = -(-self.max_tokens // info.tokens_per_block)
            return num_blocks * info.tokens_per_block * info.kv_bytes_per_token
        fraction = self.memory_fraction
        if fraction is not None and info.target == "cpu":
            free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return int(fraction * free)
        return self.kv_cache_bytes or 0


_SCHEDULER_UNSUPPORTED: Unsupported = {
    "context_chunking_policy": ((), "max_chunk_tokens bounds a chunk; there is one policy"),
    "dynamic_batch_config": ((), "limits are not tuned while serving"),
}


@explains_unknown_options(_SCHEDULER_UNSUPPORTED)
@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """In which order requests run.

    Raises:
        InvalidArgumentError: lists every option that is out of range, unsupported or unknown.
    """

    capacity_scheduler_policy: str = "GUARANTEED_NO_EVICT"
    """Or "MAX_UTILIZATION" or "STATIC_BATCH"; see `enginery.h`."""
    max_chunk_tokens: int = 0
    """The longest piece of a prompt in one step; 0: max_num_tokens."""
    max_queue_size: int = 0
    """Requests that may wait before QueueFullError; 0: no bound."""

    def __post_init__(self) -> None:
        problems = []
        if self.capacity_scheduler_policy not in abi.POLICIES:
            problems.append(
                f"capacity_scheduler_policy = {self.capacity_scheduler_policy!r}: must be one of "
                + ", ".join(abi.POLICIES)
            )
        for name in ("max_chunk_tokens", "max_queue_size"):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                problems.append(f"{name} = {value!r}: must be an integer >= 0")
        if problems:
            raise InvalidArgumentError.from_problems("SchedulerConfig", problems)
