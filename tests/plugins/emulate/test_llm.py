# SPDX-License-Identifier: Apache-2.0
"""Requests through the scheduler, the KV manager and the sampler on an emulated engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.plugins.emulate import EmulatedExecutor
from enginery.runtime.engine import Engine
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig, SchedulerConfig
from enginery.runtime.sampling_params import SamplingParams
from tests.support.emulation import EMULATED, TOKENS_PER_BLOCK, random_tokens, reference_logits
from tests.support.schemes import build_engine
from tests.support.tolerances import is_decided


@contextmanager
def emulated_llm(engine: Path, num_blocks: int = 24, **options: Any) -> Iterator[LLM]:
    with Engine(engine) as opened:
        block_bytes = opened.info.kv_bytes_per_token * TOKENS_PER_BLOCK
        executor = EmulatedExecutor(opened)
        cache = KvCacheConfig(kv_cache_bytes=num_blocks * block_bytes)
        with LLM(engine, executor=executor, kv_cache_config=cache, **options) as llm:
            yield llm


def greedy(max_tokens: int, **options: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **options)


def check_greedy(
    checkpoint: Path, engine: Path, prompt: list[int], output: list[int]
) -> tuple[int, int]:
    """Asserts that every token is the reference's best within the tolerance.

    Returns:
        (tokens that the tolerance decides, tokens).
    """
    limit = EMULATED["none"].limit
    expected = reference_logits(checkpoint, engine, prompt + output[:-1])[len(prompt) - 1 :]
    scale = np.abs(expected).max(axis=-1)
    chosen = expected[np.arange(len(output)), output]
    assert (chosen >= expected.max(axis=-1) - 2 * limit * scale).all()
    return int(is_decided(expected, limit).sum()), len(output)


def test_greedy_tokens_are_those_of_the_cpu_engine(
    llama: Path, llama_engine: Path, tmp_path: Path
) -> None:
    prompts = [random_tokens(4, seed=11), random_tokens(6, seed=12)]
    cpu = build_engine(llama, tmp_path / "cpu", "bfloat16", tokens_per_block=TOKENS_PER_BLOCK)
    with LLM(cpu) as llm:
        params = greedy(4, return_generation_logits=True)
        expected = llm.generate(prompts, params, use_tqdm=False)
    with emulated_llm(llama_engine) as llm:
        got = llm.generate(prompts, greedy(4), use_tqdm=False)
        assert "emulated" in llm.executor_name
    compared = 0
    for ours, theirs in zip(got, expected, strict=True):
        logits = theirs.outputs[0].generation_logits
        assert logits is not None
        decided = is_decided(np.asarray(logits), EMULATED["none"].limit)
        # What follows an undecided token follows another text.
        end = len(decided) if decided.all() else int(np.argmin(decided))
        assert ours.outputs[0].token_ids[:end] == theirs.outputs[0].token_ids[:end]
        compared += end
    assert compared >= 3


def test_preempted_requests_end_as_they_would_alone(llama: Path, llama_engine: Path) -> None:
    prompts = [random_tokens(14, seed=seed) for seed in (21, 22)]
    policy = SchedulerConfig(capacity_scheduler_policy="MAX_UTILIZATION")
    # Each needs two blocks in the end; both are admitted on one.
    with emulated_llm(llama_engine, num_blocks=3, scheduler_config=policy) as llm:
        results = llm.generate(prompts, greedy(5), use_tqdm=False)
        assert llm.stats().num_preemptions > 0
    counts = [
        check_greedy(llama, llama_engine, prompt, list(result.outputs[0].token_ids))
        for prompt, result in zip(prompts, results, strict=True)
    ]
    decided, tokens = np.sum(counts, axis=0)
    assert decided > tokens / 2


def test_the_device_draws_what_the_host_would(llama_engine: Path) -> None:
    prompt = random_tokens(3, seed=31)
    options: dict[str, Any] = {
        "max_tokens": 4, "temperature": 0.9, "top_p": 0.8, "top_k": 40, "seed": 5, "n": 2,
        "ignore_eos": True,
    }  # fmt: skip
    with emulated_llm(llama_engine, max_batch_size=3) as llm:
        device = llm.generate(prompt, SamplingParams(**options), use_tqdm=False)
        # Log probabilities are the host's: it then draws from the logits.
        host = llm.generate(prompt, SamplingParams(**options, logprobs=1), use_tqdm=False)
    drawn = [list(output.token_ids) for output in device.outputs]
    assert drawn == [list(output.token_ids) for output in host.outputs]
    assert drawn[0] != drawn[1]


def test_logits_stay_on_the_device_when_it_draws(
    llama_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []
    collect = EmulatedExecutor.collect

    def watch(self: EmulatedExecutor) -> Any:
        outputs.append(collect(self))
        return outputs[-1]

    monkeypatch.setattr(EmulatedExecutor, "collect", watch)
    with emulated_llm(llama_engine) as llm:
        llm.generate(random_tokens(2), greedy(3), use_tqdm=False)
    assert len(outputs) == 3 and all(output.logits is None for output in outputs)
