# SPDX-License-Identifier: Apache-2.0
"""The demo's engines on a GPU, against the float32 cpu engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from enginery.runtime.errors import OutOfMemoryError
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig
from enginery.runtime.sampling_params import SamplingParams

pytestmark = pytest.mark.gpu

# Relative error of the logits (Frobenius): rounding to bfloat16, and to int8 per output channel.
TOLERANCE = {"bf16": 2e-2, "int8_wo": 5e-2}


@pytest.fixture(scope="module", params=sorted(TOLERANCE))
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def llm(demo_engines: Path, scheme: str) -> Iterator[LLM]:
    with LLM(demo_engines / scheme, kv_cache_config=KvCacheConfig(max_tokens=32768)) as made:
        yield made


@pytest.fixture(scope="module")
def expected(demo_engines: Path) -> dict[str, NDArray[Any]]:
    with np.load(demo_engines / "expected.npz") as file:
        return dict(file)


def logits_of(llm: LLM, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    params = SamplingParams(max_tokens=1, return_context_logits=True)
    output = llm.generate(tokens.tolist(), params, use_tqdm=False)
    logits: NDArray[np.float32] | None = output.context_logits
    assert logits is not None
    return logits


def test_logits(llm: LLM, scheme: str, expected: dict[str, NDArray[Any]]) -> None:
    for index in range(len(expected["prompt_tokens"])):
        reference = expected[f"logits{index}"]
        error = logits_of(llm, expected[f"tokens{index}"]) - reference
        relative = float(np.linalg.norm(error) / np.linalg.norm(reference))
        print(f"{scheme}, prompt {index}: relative error {relative:.2e}")
        assert relative < TOLERANCE[scheme]


def test_greedy_tokens_of_prompts_together(
    llm: LLM, scheme: str, expected: dict[str, NDArray[Any]]
) -> None:
    prompts, lengths = [], expected["prompt_tokens"]
    for index, length in enumerate(lengths):
        prompts.append(expected[f"tokens{index}"][:length].tolist())
    total = len(expected["tokens0"]) - int(lengths[0])
    params = SamplingParams(max_tokens=total, temperature=0.0, ignore_eos=True)
    compared = 0
    for index, output in enumerate(llm.generate(prompts, params, use_tqdm=False)):
        reference = expected[f"logits{index}"][lengths[index] - 1 :]
        wanted = expected[f"tokens{index}"][lengths[index] :]
        scale = TOLERANCE[scheme] * float(np.abs(reference).mean())
        for step, token in enumerate(output.outputs[0].token_ids):
            if token != wanted[step]:
                # Another token is right only where the two are as good as equal.
                row = reference[step]
                assert row[wanted[step]] - row[token] < 4 * scale, (index, step)
                break
            compared += 1
    print(f"{scheme}: {compared} of {total * len(prompts)} tokens before any difference")
    assert compared > total * len(prompts) // 2


def test_the_same_seed_gives_the_same_tokens(llm: LLM) -> None:
    params = SamplingParams(max_tokens=40, seed=7, top_p=0.9, top_k=50, n=3)
    runs = [llm.generate("In the evening", params, use_tqdm=False) for _ in range(2)]
    first, second = ([list(each.token_ids) for each in run.outputs] for run in runs)
    assert first == second
    assert len({tuple(tokens) for tokens in first}) > 1


def test_many_requests_of_mixed_lengths(llm: LLM) -> None:
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 4000, length).tolist() for length in rng.integers(1, 700, 90)]
    params = [
        SamplingParams(max_tokens=int(count), temperature=0.0, ignore_eos=True)
        for count in rng.integers(1, 60, 90)
    ]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [
        each.max_tokens for each in params
    ]
    # One of them again, alone, must begin alike: it is the same work in another company.
    alone = llm.generate(prompts[5], params[5], use_tqdm=False)
    assert alone.outputs[0].token_ids[:1] == outputs[5].outputs[0].token_ids[:1]


def test_early_launches_and_recordings_change_nothing(demo_engines: Path) -> None:
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, 4000, length).tolist() for length in (1, 5, 33, 200, 600)]
    params = SamplingParams(
        max_tokens=24, temperature=0.0, ignore_eos=True, return_generation_logits=True
    )
    given = []
    for options in ({}, {"programmatic_launch": False}, {"cuda_graphs": False}):
        with LLM(
            demo_engines / "bf16",
            executor="enginery.runtime.executors.cuda.executor:TensorRTExecutor",
            executor_options=options,
            kv_cache_config=KvCacheConfig(max_tokens=8192),
        ) as llm:
            # One after another, so that all three run the same steps.
            outputs = [llm.generate(prompt, params, use_tqdm=False) for prompt in prompts]
            given.append([each.outputs[0].generation_logits for each in outputs])
    for others in given[1:]:
        for logits, expected in zip(others, given[0], strict=True):
            assert np.array_equal(logits, expected)


def test_a_kv_cache_of_the_free_memory(demo_engines: Path) -> None:
    with LLM(
        demo_engines / "bf16", kv_cache_config=KvCacheConfig(free_gpu_memory_fraction=0.5)
    ) as llm:
        output = llm.generate("Anne", SamplingParams(max_tokens=3), use_tqdm=False)
        assert len(output.outputs[0].token_ids) >= 1
        stats = llm.stats()
        assert stats.num_blocks * stats.block_bytes > 1 << 30


def test_a_kv_cache_that_is_too_large(demo_engines: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="KV cache"):
        LLM(demo_engines / "bf16", kv_cache_config=KvCacheConfig(kv_cache_bytes=1 << 42))
