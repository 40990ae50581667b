# SPDX-License-Identifier: Apache-2.0
"""A request's tokens and logits do not depend, bit for bit, on what else the engine does.

Every scheme runs the same jobs alone, one thread, prompts whole, nothing shared; then under other
circumstances, and each test asserts that the circumstance came about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import EngineryError
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.checkpoints import write_tiny_checkpoint
from tests.support.schemes import SCHEMES, build_engine
from tests.support.serving import Job, JobResult, JobRunner, assert_same, run_jobs, settled

VOCAB_SIZE = 333
TOKENS_PER_BLOCK = 16  # also the attention's tile
NUM_JOBS = 33
# On both sides of where kernels change from one register tile to another.
BATCH_SIZES = (1, 2, 5, 6, 7, 13, 33)


class Case(NamedTuple):
    """An engine, jobs, and what the jobs give alone."""

    engine: Engine
    jobs: list[Job]
    alone: list[JobResult]


def make_jobs() -> list[Job]:
    """Prompts of 1 to 100 tokens, a third of them with a common prefix; greedy and sampled."""
    rng = np.random.default_rng(11)
    prefix = rng.integers(VOCAB_SIZE, size=53).tolist()
    jobs = []
    for index in range(NUM_JOBS):
        prompt = rng.integers(VOCAB_SIZE, size=rng.integers(1, 100)).tolist()
        if index % 3 == 0:
            prompt = prefix + prompt[:40]
        sampled = index % 2 == 1
        params = SamplingParams(
            max_tokens=int(rng.integers(8, 20)),
            ignore_eos=True,
            temperature=0.9 if sampled else 0.0,
            top_p=0.95 if sampled else 1.0,
            seed=index,
            repetition_penalty=1.1 if index % 5 == 0 else 1.0,
            n=2 if index % 8 == 3 else 1,
            return_generation_logits=True,
        )
        jobs.append(Job(tuple(prompt), params))
    return jobs


@pytest.fixture(scope="module", params=SCHEMES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    # Sizes that no vector width divides, and every op there is; blocks of INT4 are whole.
    sizes: dict[str, Any] = {
        "num_heads": 6,
        "head_dim": 24,
        "hidden_size": 136,
        "intermediate_size": 328,
    }
    if request.param == "int4_wo":
        sizes = {"num_heads": 6, "head_dim": 64, "hidden_size": 128, "intermediate_size": 384}
    checkpoint = write_tiny_checkpoint(
        folder / "checkpoint", "qwen3", vocab_size=VOCAB_SIZE, max_position_embeddings=4096, **sizes
    )
    path = build_engine(
        checkpoint, folder / "engine", request.param, tokens_per_block=TOKENS_PER_BLOCK,
        max_batch_size=40, max_num_tokens=256, max_seq_len=2048,
    )  # fmt: skip
    jobs = make_jobs()
    with Engine(path) as engine:
        yield Case(engine, jobs, run_alone(engine, jobs))


def block_bytes(engine: Engine) -> int:
    """What a KV block takes, with the executor's padding."""
    with Runtime(engine) as runtime:
        return runtime.stats().block_bytes


def run_alone(engine: Engine, jobs: list[Job], isa: str | None = None) -> list[JobResult]:
    options = RuntimeOptions(num_threads=1, enable_block_reuse=False, isa=isa)
    with Runtime(engine, options) as runtime:
        return [run_jobs(runtime, [job])[0] for job in jobs]


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads(case: Case, num_threads: int) -> None:
    with Runtime(case.engine, RuntimeOptions(num_threads=num_threads)) as runtime:
        assert_same(run_jobs(runtime, case.jobs), case.alone)
        stats = settled(runtime)
        # Together they are far fewer steps than one by one.
        assert stats.num_iterations < sum(len(r.token_ids) for job in case.alone for r in job) / 2


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_batch_sizes(case: Case, batch_size: int) -> None:
    # As one static batch: they gather behind a request that is then cancelled. Their prompts go
    # through in one step, so that they decode side by side to the end.
    params = SamplingParams(
        temperature=0.0, max_tokens=6, ignore_eos=True, return_generation_logits=True
    )
    jobs = [Job(job.prompt[:5], params) for job in case.jobs[:batch_size]]
    alone = run_alone(case.engine, jobs)
    options = RuntimeOptions(policy="STATIC_BATCH", num_threads=2)
    with Runtime(case.engine, options) as runtime:
        blocker = runtime.submit([1], SamplingParams(max_tokens=2000, ignore_eos=True))
        assert runtime.poll(60_000), "the blocker does not run"
        runner = JobRunner(runtime)
        for job in jobs:
            runner.submit(job)
        runtime.cancel(blocker)
        assert_same(runner.finish(), alone)
        settled(runtime)
        sizes = [entry.num_sequences for entry in runtime.iterations()]
        assert sizes.count(batch_size) >= 6


@pytest.mark.parametrize("max_chunk_tokens", [1, 3, TOKENS_PER_BLOCK, TOKENS_PER_BLOCK + 1, 50])
def test_chunks(case: Case, max_chunk_tokens: int) -> None:
    options = RuntimeOptions(max_chunk_tokens=max_chunk_tokens, num_threads=2)
    with Runtime(case.engine, options) as runtime:
        assert_same(run_jobs(runtime, case.jobs), case.alone)


def test_context_logits_and_chunks(case: Case) -> None:
    params = SamplingParams(
        temperature=0.0, max_tokens=1, ignore_eos=True, return_context_logits=True,
        return_generation_logits=True,
    )  # fmt: skip
    jobs = [Job(job.prompt, params) for job in case.jobs[:12]]
    alone = run_alone(case.engine, jobs)
    for max_chunk_tokens, max_num_tokens in ((0, 256), (7, 0), (40, 61)):
        options = RuntimeOptions(
            max_chunk_tokens=max_chunk_tokens, max_num_tokens=max_num_tokens, num_threads=2
        )
        with Runtime(case.engine, options) as runtime:
            found = run_jobs(runtime, jobs)
        assert_same(found, alone)
        assert all(
            job[0].context_logits is not None and len(job[0].context_logits) == len(jobs[i].prompt)
            for i, job in enumerate(found)
        )


def test_preemption(case: Case) -> None:
    # Blocks for about two of the sequences: their growth preempts the youngest. Who runs beside
    # whom depends on when each arrives, so one round may pass without it, hardly all of them.
    options = RuntimeOptions(
        policy="MAX_UTILIZATION", kv_cache_bytes=16 * block_bytes(case.engine), num_threads=2
    )
    with Runtime(case.engine, options) as runtime:
        for _ in range(20):
            assert_same(run_jobs(runtime, case.jobs), case.alone)
            stats = settled(runtime)
            assert stats.num_blocks == 16
            assert stats.num_free_blocks == stats.num_blocks
            if stats.num_preemptions > 0:
                break
        assert stats.num_preemptions > 0


def test_prefix_reuse(case: Case) -> None:
    with Runtime(case.engine, RuntimeOptions(num_threads=2)) as runtime:
        run_jobs(runtime, case.jobs)
        before = settled(runtime).num_reused_tokens
        assert_same(run_jobs(runtime, case.jobs), case.alone)
        # The second time nearly all full blocks of the prompts are there already.
        reused = settled(runtime).num_reused_tokens - before
        blocks = sum((len(job.prompt) - 1) // TOKENS_PER_BLOCK for job in case.jobs)
        assert reused >= 0.8 * blocks * TOKENS_PER_BLOCK


@pytest.mark.parametrize("seed", range(4))
def test_random_schedules(case: Case, seed: int) -> None:
    """Jobs in random order arrive while others run, under random limits, all at once."""
    rng = np.random.default_rng(seed)
    max_num_tokens = int(rng.integers(40, 130))
    options = RuntimeOptions(
        num_threads=int(rng.integers(1, 4)),
        max_batch_size=int(rng.integers(3, 40)),
        max_num_tokens=max_num_tokens,
        max_chunk_tokens=int(rng.integers(1, max_num_tokens)),
        policy=str(rng.choice(["MAX_UTILIZATION", "GUARANTEED_NO_EVICT", "STATIC_BATCH"])),
        enable_block_reuse=bool(rng.integers(2)),
        kv_cache_bytes=int(rng.integers(20, 90)) * block_bytes(case.engine),
    )
    order = rng.permutation(NUM_JOBS)
    with Runtime(case.engine, options) as runtime:
        runner = JobRunner(runtime)
        for index in order:
            for _ in range(rng.integers(3)):
                runner.poll()
            runner.submit(case.jobs[index])
        assert_same(runner.finish(), [case.alone[index] for index in order])


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "amx"])
def test_each_instruction_set(case: Case, isa: str) -> None:
    """The promise holds within each variant; between them only integer sums are bit-equal."""
    jobs = case.jobs[:13]
    try:
        alone = run_alone(case.engine, jobs, isa)
    except EngineryError as error:
        assert isa != "portable"
        assert error.status == "INVALID_ARGUMENT"  # this machine lacks it and says so
        return
    options = RuntimeOptions(num_threads=2, max_chunk_tokens=19, isa=isa)
    with Runtime(case.engine, options) as runtime:
        assert runtime.executor_name == isa
        assert_same(run_jobs(runtime, jobs), alone)


def test_jobs_that_differ_are_told_apart(case: Case) -> None:
    """The comparison itself can fail: another seed, another prompt."""
    with pytest.raises(AssertionError, match="job 1"):
        assert_same([case.alone[0], case.alone[2]], case.alone[:2])
