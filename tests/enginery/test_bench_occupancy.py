# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from enginery.bench.occupancy import summarise
from enginery.runtime.runtime import Iteration


def iteration(start_ms: int, duration_ms: int, sequences: int, blocks: int) -> Iteration:
    return Iteration(
        iteration=0,
        start_ns=start_ms * 10**6,
        duration_ns=duration_ms * 10**6,
        executor_ns=duration_ms * 9 * 10**5,
        num_sequences=sequences,
        num_prefill_tokens=30,
        num_decode_tokens=10,
        num_waiting=0,
        num_used_blocks=blocks,
        num_preempted=0,
    )


def test_iterations_weigh_as_much_as_they_last() -> None:
    entries = [iteration(0, 500, 8, 20), iteration(1000, 30, 2, 4), iteration(1030, 10, 6, 8)]
    found = summarise(entries, begin_s=0.5, max_batch_size=10, num_blocks=20)
    assert found.num_iterations == 2  # the first belongs to the warm-up
    assert found.mean_batch_size == (2 * 30 + 6 * 10) / 40
    assert found.batch_occupancy == 0.3
    assert found.kv_utilisation == (4 * 30 + 8 * 10) / 40 / 20
    assert found.max_kv_utilisation == 0.4
    assert found.mean_num_tokens == 40
    assert found.prefill_token_share == 0.75
    assert abs(found.host_share - 0.1) < 1e-9


def test_no_iterations() -> None:
    assert summarise([], begin_s=0.0, max_batch_size=4, num_blocks=3).kv_utilisation == 0
