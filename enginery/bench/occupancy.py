# SPDX-License-Identifier: Apache-2.0
"""How full the batch and the KV cache were, from the runtime's iteration statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginery.runtime.runtime import Iteration


@dataclass(frozen=True)
class Occupancy:
    """Means over time: an iteration weighs as much as it lasts."""

    num_iterations: int
    mean_batch_size: float
    """Sequences per step."""
    batch_occupancy: float
    """Of max_batch_size; 0 .. 1."""
    mean_num_tokens: float
    """Packed tokens per step."""
    kv_utilisation: float
    """KV blocks in use, of all; 0 .. 1."""
    max_kv_utilisation: float
    prefill_token_share: float
    """Of all packed tokens."""
    host_share: float
    """Of the time of the steps: not in the executor."""


def summarise(
    iterations: Sequence[Iteration], *, begin_s: float, max_batch_size: int, num_blocks: int
) -> Occupancy:
    """Summarises the iterations that began at `begin_s` of CLOCK_MONOTONIC or later."""
    chosen = [entry for entry in iterations if entry.start_ns >= begin_s * 1e9]
    total_ns = sum(entry.duration_ns for entry in chosen)
    num_tokens = sum(entry.num_prefill_tokens + entry.num_decode_tokens for entry in chosen)
    if total_ns == 0 or num_tokens == 0:
        return Occupancy(len(chosen), 0, 0, 0, 0, 0, 0, 0)
    mean_batch_size = sum(e.num_sequences * e.duration_ns for e in chosen) / total_ns
    mean_blocks = sum(e.num_used_blocks * e.duration_ns for e in chosen) / total_ns
    return Occupancy(
        num_iterations=len(chosen),
        mean_batch_size=mean_batch_size,
        batch_occupancy=mean_batch_size / max_batch_size,
        mean_num_tokens=num_tokens / len(chosen),
        kv_utilisation=mean_blocks / num_blocks,
        max_kv_utilisation=max(e.num_used_blocks for e in chosen) / num_blocks,
        prefill_token_share=sum(e.num_prefill_tokens for e in chosen) / num_tokens,
        host_share=1 - sum(e.executor_ns for e in chosen) / total_ns,
    )
