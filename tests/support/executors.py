# SPDX-License-Identifier: Apache-2.0
"""An executor in Python whose model is a formula, and which checks every batch that it is given."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from enginery.runtime.batch import ScheduledBatch
from enginery.runtime.engine import Engine
from enginery.runtime.executor import ExecutorInfo, Limits, StepOutput


def next_token(tokens: npt.NDArray[np.int64], vocab_size: int) -> int:
    """The token that the formula's model puts after `tokens`: it depends on all of them."""
    weights = np.arange(1, len(tokens) + 1)
    return int((tokens * weights).sum() % vocab_size)


class FormulaExecutor:
    """Keeps the tokens themselves as its KV cache and reads them back through the block tables.

    A wrong slot, block table, position or copy therefore changes what is generated.

    Args:
        vocab_size: of the engine.
        num_blocks: of the KV cache; None: what the budget pays for at one byte per token.
        fail_at_steps: `execute` raises at these steps, counted from 0.
        step_seconds: so long a step takes at least; with it, what a test does meanwhile happens
            while requests run.
    """

    def __init__(
        self,
        vocab_size: int,
        num_blocks: int | None = None,
        fail_at_steps: frozenset[int] = frozenset(),
        step_seconds: float = 0.0,
    ) -> None:
        self.step_seconds = step_seconds
        self.vocab_size = vocab_size
        self.num_blocks = num_blocks
        self.fail_at_steps = fail_at_steps
        self.limits: Limits | None = None
        self.num_steps = 0
        self.max_tokens_seen = 0
        self.is_closed = False
        self._cache: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._logits: npt.NDArray[np.float32] = np.empty((0, 0), np.float32)

    def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
        self.limits = limits
        num_blocks = self.num_blocks or max(1, kv_cache_bytes // limits.tokens_per_block)
        self._cache = np.full(num_blocks * limits.tokens_per_block, -1, np.int64)
        return ExecutorInfo(self.vocab_size, num_blocks, block_bytes=limits.tokens_per_block)

    def execute(self, batch: ScheduledBatch) -> None:
        step = self.num_steps
        self.num_steps += 1
        if step in self.fail_at_steps:
            raise RuntimeError(f"step {step} was told to fail")
        assert self.limits is not None
        per_block = self.limits.tokens_per_block
        self.max_tokens_seen = max(self.max_tokens_seen, batch.num_tokens)
        assert batch.num_tokens <= self.limits.max_num_tokens
        assert batch.num_sequences <= self.limits.max_batch_size
        assert batch.cu_seqlens_q[0] == 0
        assert batch.cu_seqlens_q[-1] == batch.num_tokens
        blocks = self._cache.reshape(-1, per_block)
        for source, destination in batch.block_copies:
            blocks[destination] = blocks[source]
        self._cache[batch.slot_mapping] = batch.token_ids
        rows = {int(row): index for index, row in enumerate(batch.logit_rows)}
        assert list(rows) == sorted(rows)
        self._logits = np.zeros((len(rows), self.vocab_size), np.float32)
        for sequence in range(batch.num_sequences):
            begin, end = batch.cu_seqlens_q[sequence : sequence + 2]
            length = int(batch.context_lens[sequence])
            positions = batch.positions[begin:end]
            np.testing.assert_array_equal(positions, np.arange(length - (end - begin), length))
            table = batch.block_tables[sequence]
            used = table[: -(-length // per_block)]
            assert (used >= 0).all()
            slots = used[positions // per_block] * per_block + positions % per_block
            np.testing.assert_array_equal(batch.slot_mapping[begin:end], slots)
            context = blocks[used].reshape(-1)[:length]
            for row in range(begin, end):
                if row in rows:
                    seen = context[: int(batch.positions[row]) + 1]
                    self._logits[rows[row], next_token(seen, self.vocab_size)] = 10.0

    def collect(self) -> StepOutput:
        time.sleep(self.step_seconds)
        return StepOutput(self._logits)

    def close(self) -> None:
        self.is_closed = True


class StallingExecutor(FormulaExecutor):
    """Goes on until a token comes by, and then never ends the step.

    Args:
        vocab_size: of the engine.
        stalls_after: how many steps with this token, or after it, are still run.
    """

    STALLING_TOKEN = 5

    def __init__(self, vocab_size: int, stalls_after: int = 2) -> None:
        super().__init__(vocab_size, num_blocks=64)
        self._num_steps_left: int | None = None
        self._stalls_after = stalls_after

    def execute(self, batch: ScheduledBatch) -> None:
        super().execute(batch)
        if self._num_steps_left is not None:
            self._num_steps_left -= 1
        elif self.STALLING_TOKEN in batch.token_ids:
            self._num_steps_left = self._stalls_after
        while self._num_steps_left == 0:
            time.sleep(1)


def stalling_executor(engine: Engine) -> StallingExecutor:
    """For `enginery serve --executor tests.support.executors:stalling_executor`."""
    return StallingExecutor(engine.info.vocab_size)
