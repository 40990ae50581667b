# SPDX-License-Identifier: Apache-2.0
"""Many clients that cancel, vanish, stop and time out as they like; afterwards all is as before."""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from enginery.runtime.errors import InvalidArgumentError, QueueFullError
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig, SchedulerConfig
from enginery.runtime.sampling_params import SamplingParams
from tests.support.serving import settled

NUM_CLIENTS = 6
REQUESTS_PER_CLIENT = 60


class Client(threading.Thread):
    """Sends requests of every kind, one after the other; `outcomes` counts their ends."""

    def __init__(self, llm: LLM, seed: int) -> None:
        super().__init__()
        self._llm = llm
        self._random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(REQUESTS_PER_CLIENT):
                self._request()
        except BaseException as failure:
            self.failure = failure

    def _request(self) -> None:
        draw = self._random
        params = SamplingParams(
            max_tokens=draw.randint(1, 100),
            n=draw.choice([1, 1, 1, 2, 5]),
            temperature=draw.choice([0.0, 1.0]),
            ignore_eos=draw.random() < 0.5,
            stop=draw.choice([(), ["e"], ["th", "qz"]]),
            logprobs=draw.choice([None, 0, 3]),
            return_context_logits=draw.random() < 0.1,
            repetition_penalty=draw.choice([1.0, 1.2]),
            seed=draw.randint(0, 9),
        )
        prompt = [draw.randrange(320) for _ in range(draw.choice([1, 5, 40, 130]))]
        if draw.random() < 0.3:
            prompt = [*range(64), *prompt[:60]]
        try:
            generation = self._llm.generate_async(
                prompt,
                params,
                streaming=draw.random() < 0.5,
                timeout_ms=draw.choice([0, 0, 5]),
                priority=draw.randint(-1, 1),
            )
        except (QueueFullError, InvalidArgumentError) as refusal:
            # Five long sequences may not fit into the cache at all; a full queue is said too.
            self.outcomes[refusal.status] += 1
            return
        manner = draw.random()
        if manner < 0.2:
            self.outcomes["dropped"] += 1
            del generation
            return
        if manner < 0.4:
            generation.abort()
        elif manner < 0.6:
            for update in generation:
                assert len(update.outputs) == params.n
        output = generation.result(timeout=60)
        assert output.finished
        for sequence in output.outputs:
            assert sequence.finish_reason is not None
            self.outcomes[sequence.finish_reason] += 1
            if sequence.logprobs is not None:
                assert len(sequence.logprobs) == len(sequence.token_ids)


@pytest.mark.parametrize("policy", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
def test_clients_of_every_kind(engine_path: Path, policy: str) -> None:
    with LLM(
        engine_path,
        kv_cache_config=KvCacheConfig(max_tokens=30 * 16),
        scheduler_config=SchedulerConfig(capacity_scheduler_policy=policy, max_queue_size=50),
    ) as llm:
        clients = [Client(llm, seed) for seed in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        for client in clients:
            if client.failure is not None:
                raise client.failure
        gc.collect()
        stats = settled(llm)
        assert stats.num_free_blocks == stats.num_blocks == 30
        assert stats.num_finished == stats.num_requests
        outcomes = sum((client.outcomes for client in clients), Counter())
        assert outcomes["error"] == 0
        for outcome in ("length", "stop", "cancelled", "dropped"):
            assert outcomes[outcome] > 0, outcomes
