# SPDX-License-Identifier: Apache-2.0
"""The demo's engines on a GPU, against the cpu engines of their schemes and of float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.gpu.demo import DEMO_ENGINES, DemoEngine, demo_prompts, reference
from enginery.accuracy import log_softmax
from enginery.runtime.errors import OutOfMemoryError
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig
from enginery.runtime.sampling_params import SamplingParams

pytestmark = pytest.mark.gpu

NUM_TOKENS = 48


@dataclass(frozen=True)
class Prompt:
    """A prompt and what the float32 reference says after it.

    Attributes:
        tokens: of the prompt and its greedy continuation.
        length: of the prompt.
        logits: float32 [tokens, vocab_size] of the reference.
    """

    tokens: list[int]
    length: int
    logits: NDArray[np.float32]


def logits_of(llm: LLM, tokens: list[int]) -> NDArray[np.float32]:
    params = SamplingParams(max_tokens=1, return_context_logits=True)
    logits: NDArray[np.float32] | None = llm.generate(tokens, params, use_tqdm=False).context_logits
    assert logits is not None
    return logits


def relative_error(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


@pytest.fixture(scope="module", params=DEMO_ENGINES, ids=lambda engine: engine.name)
def scheme(request: pytest.FixtureRequest) -> DemoEngine:
    engine: DemoEngine = request.param
    return engine


@pytest.fixture(scope="module")
def llm(demo_engines: Path, scheme: DemoEngine) -> Iterator[LLM]:
    directory = scheme.on_gpu(demo_engines)
    with LLM(directory, kv_cache_config=KvCacheConfig(max_tokens=32768)) as made:
        yield made


@pytest.fixture(scope="module")
def prompts(demo_engines: Path) -> list[Prompt]:
    greedy = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    with LLM(reference(demo_engines)) as exact:
        made = []
        for output in exact.generate(demo_prompts(), greedy, use_tqdm=False):
            tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
            logits = logits_of(exact, tokens)
            made.append(Prompt(tokens, len(output.prompt_token_ids), logits))
    return made


def test_logits(demo_engines: Path, llm: LLM, scheme: DemoEngine, prompts: list[Prompt]) -> None:
    with LLM(scheme.on_cpu(demo_engines)) as foretelling:
        for index, prompt in enumerate(prompts):
            logits = logits_of(llm, prompt.tokens)
            foretold = logits_of(foretelling, prompt.tokens)
            error = relative_error(logits, foretold)
            print(
                f"{scheme.name}, prompt {index}: relative error {error:.2e} beside cpu, "
                f"{relative_error(logits, prompt.logits):.2e} beside float32, cpu's "
                f"{relative_error(foretold, prompt.logits):.2e}"
            )
            assert error < scheme.tolerance


def test_greedy_tokens_of_prompts_together(
    llm: LLM, scheme: DemoEngine, prompts: list[Prompt]
) -> None:
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    compared = 0
    inputs = [prompt.tokens[: prompt.length] for prompt in prompts]
    outputs = llm.generate(inputs, params, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = prompt.logits[prompt.length - 1 :]
        # Another token is right only where the two are as good as equal for this scheme.
        near = 4 * relative_error(logits_of(llm, prompt.tokens), prompt.logits)
        near *= float(np.abs(expected).mean())
        for step, token in enumerate(output.outputs[0].token_ids):
            wanted = prompt.tokens[prompt.length + step]
            if token != wanted:
                assert expected[step][wanted] - expected[step][token] < near, step
                break
            compared += 1
    print(f"{scheme.name}: {compared} of {NUM_TOKENS * len(prompts)} tokens before any difference")
    assert compared > NUM_TOKENS * len(prompts) // 8


def test_log_probabilities_of_prompt_and_tokens(llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=8,
        temperature=0.0,
        ignore_eos=True,
        logprobs=2,
        prompt_logprobs=2,
        return_context_logits=True,
        return_generation_logits=True,
    )
    output = llm.generate("In the evening", params, use_tqdm=False)
    completion = output.outputs[0]
    context, generated = output.context_logits, completion.generation_logits
    assert context is not None and generated is not None
    assert output.prompt_logprobs is not None and completion.logprobs is not None
    rows = [*zip(output.prompt_logprobs[1:], log_softmax(context)[:-1], strict=True)]
    rows += zip(completion.logprobs, log_softmax(generated), strict=True)
    for position, expected in rows:
        assert position is not None and len(position) >= 2
        for token, logprob in position.items():
            assert logprob.logprob == pytest.approx(expected[token], abs=1e-4)


def test_a_bias_chooses_the_token(llm: LLM) -> None:
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True, logit_bias={77: 100.0})
    output = llm.generate("In the evening", params, use_tqdm=False)
    assert list(output.outputs[0].token_ids) == [77] * 5


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
