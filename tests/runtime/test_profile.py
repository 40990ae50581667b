# SPDX-License-Identifier: Apache-2.0
"""Profiles, the machine's limits and pinned threads from Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError, NotSupportedError
from enginery.runtime.profile import measure_limits
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.executors import FormulaExecutor

GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)


def run_one(runtime: Runtime) -> list[int]:
    runtime.submit([1, 2, 3, 4, 5], GREEDY)
    tokens: list[int] = []
    while True:
        for event in runtime.poll(1000):
            tokens += event.token_ids
            if event.is_last:
                return tokens


def test_records_belong_to_the_iterations(engine: Engine) -> None:
    with Runtime(engine) as runtime:
        plain = run_one(runtime)
        assert runtime.profile() == []
        runtime.set_profiling(True)
        assert run_one(runtime) == plain
        runtime.set_profiling(False)
        assert run_one(runtime) == plain
        records = runtime.profile()
        iterations = {entry.iteration: entry for entry in runtime.iterations()}
    assert sorted({record.iteration for record in records}) == [3, 4, 5]
    for number in (3, 4, 5):
        step = [record for record in records if record.iteration == number]
        assert sum(record.duration_ns for record in step) <= iterations[number].executor_ns
        heads = [record for record in step if record.role == "lm_head"]
        assert len(heads) == 1
        # One row of logits, a multiply-add per element of the weight.
        info = engine.info
        assert heads[0].operations == 2 * info.vocab_size * info.hidden_size
        appended = next(record for record in step if record.op == "kv_append")
        num_tokens = 5 if number == 3 else 1
        assert appended.bytes == num_tokens * info.kv_bytes_per_token
        assert appended.num_calls == info.num_layers


def test_other_executors_have_no_profile(engine: Engine) -> None:
    with Runtime(engine, executor=FormulaExecutor(engine.info.vocab_size)) as runtime:
        with pytest.raises(NotSupportedError, match="built-in"):
            runtime.set_profiling(True)
        with pytest.raises(NotSupportedError, match="built-in"):
            runtime.profile()


def test_limits() -> None:
    limits = measure_limits("portable", 1)
    assert limits.memory_bandwidth > 0
    assert limits.num_threads == 1
    assert [limits.peak(unit) for unit in ("f32", "bf16", "i8", "")] == [0, 0, 0, 0]
    with pytest.raises(InvalidArgumentError, match="sse2"):
        measure_limits("sse2")
    with pytest.raises(InvalidArgumentError, match="num_threads"):
        measure_limits(num_threads=-1)


def cpus_of_threads() -> dict[int, set[int]]:
    """Where each thread of this process may run."""
    return {
        int(t.name): os.sched_getaffinity(int(t.name)) for t in Path("/proc/self/task").iterdir()
    }


def test_pinned_threads(engine: Engine) -> None:
    mask = os.sched_getaffinity(0)
    before = set(cpus_of_threads())
    options = RuntimeOptions(num_threads=len(mask), pin_threads=True)
    with Runtime(engine, options) as runtime:
        run_one(runtime)
        own = {t: cpus for t, cpus in cpus_of_threads().items() if t not in before}
        # The step thread among them: each on one CPU, together on all.
        pinned = [cpus for cpus in own.values() if cpus != mask or len(mask) == 1]
        assert sorted(pinned, key=min) == [{cpu} for cpu in sorted(mask)]
    assert os.sched_getaffinity(0) == mask
    with Runtime(engine, RuntimeOptions(num_threads=len(mask))) as runtime:
        run_one(runtime)
        assert all(cpus == mask for cpus in cpus_of_threads().values())


def test_more_pinned_threads_than_cpus_are_refused(engine: Engine) -> None:
    too_many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(InvalidArgumentError, match=f"pin_threads is 1 with {too_many} threads"):
        Runtime(engine, RuntimeOptions(num_threads=too_many, pin_threads=True))
