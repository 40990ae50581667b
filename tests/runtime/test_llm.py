# SPDX-License-Identifier: Apache-2.0
"""LLM end to end on a tiny engine; nobody reads sense into what it says."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enginery.runtime.errors import (
    EngineryError,
    InvalidArgumentError,
    NotFoundError,
    QueueFullError,
    ShutDownError,
)
from enginery.runtime.llm import LLM
from enginery.runtime.llm_config import KvCacheConfig, SchedulerConfig
from enginery.runtime.outputs import RequestOutput
from enginery.runtime.prompt import Prompt
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer
from tests.support.executors import FormulaExecutor
from tests.support.tokenizer import BOS_TOKEN_ID

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
LONG = SamplingParams(max_tokens=200, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(engine_path: Path) -> Iterator[LLM]:
    with LLM(engine_path, num_threads=1) as made:
        yield made


@pytest.fixture(scope="module")
def slow_llm(engine_path: Path) -> Iterator[LLM]:
    """Takes seconds for a LONG request, so that one is sure to be running when it is cancelled."""
    executor = FormulaExecutor(320, num_blocks=64, step_seconds=0.02)
    with LLM(engine_path, executor=executor) as made:
        yield made


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def all_blocks_are_free(llm: LLM) -> bool:
    stats = llm.stats()
    return stats.num_running == stats.num_waiting == 0 and stats.num_free_blocks == stats.num_blocks


def test_one_prompt(llm: LLM) -> None:
    output = llm.generate("the sea and the", GREEDY)
    assert isinstance(output, RequestOutput)
    assert output.prompt == "the sea and the"
    assert output.prompt_token_ids[0] == BOS_TOKEN_ID
    assert output.finished
    (sequence,) = output.outputs
    assert (sequence.index, sequence.finish_reason, sequence.stop_reason) == (0, "length", None)
    assert len(sequence.token_ids) == 12
    assert sequence.logprobs is None
    assert sequence.cumulative_logprob is None
    metrics = output.metrics
    assert metrics.arrival_ns is not None
    assert metrics.first_token_ns is not None
    assert metrics.arrival_ns <= metrics.first_token_ns


def test_text_is_what_the_tokenizer_decodes(llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, max_tokens=100, ignore_eos=True, seed=4)
    sequence = llm.generate("she", params).outputs[0]
    decoded = llm.tokenizer.decode(sequence.token_ids)
    assert sequence.text == decoded
    assert len(sequence.text) > 20


@pytest.mark.parametrize("form", ["text", "ids", "array", "dict", "dict of ids"])
def test_forms_of_a_prompt(llm: LLM, form: str) -> None:
    ids = llm.tokenizer.encode("of the")
    forms: dict[str, Prompt] = {
        "text": "of the",
        "ids": ids,
        "array": np.array(ids),
        "dict": {"prompt": "of the"},
        "dict of ids": {"prompt_token_ids": ids},
    }
    prompt = forms[form]
    expected = llm.generate("of the", GREEDY)
    found = llm.generate(prompt, GREEDY)
    assert found.outputs[0].token_ids == expected.outputs[0].token_ids
    assert found.prompt == ("of the" if form in ("text", "dict") else None)
    listed = llm.generate([prompt], GREEDY)
    assert [output.outputs[0].token_ids for output in listed] == [expected.outputs[0].token_ids]


def test_many_prompts_keep_their_order_and_params(llm: LLM) -> None:
    prompts = [f"{'abc'[i % 3]} {i}" for i in range(40)]
    params = [
        SamplingParams(max_tokens=1 + i % 7, temperature=0.0, ignore_eos=True) for i in range(40)
    ]
    outputs = llm.generate(prompts, params)
    assert [output.prompt for output in outputs] == prompts
    assert [len(o.outputs[0].token_ids) for o in outputs] == [1 + i % 7 for i in range(40)]
    none: list[str] = []
    assert llm.generate(none, GREEDY) == []
    wait_until(lambda: all_blocks_are_free(llm))


def test_params_must_match_the_prompts(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError, match="1 entries for 2 prompts"):
        llm.generate(["a", "b"], [GREEDY])
    with pytest.raises(InvalidArgumentError, match="is a list"):
        llm.generate("a", [GREEDY])


def test_a_bad_prompt_among_good_ones_is_named_and_none_is_run(llm: LLM) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        llm.generate(["fine", [], "fine"], LONG)
    assert "inputs[1]" in caught.value.__notes__[0]
    wait_until(lambda: all_blocks_are_free(llm))


@pytest.mark.parametrize("prompt", [{"text": "a"}, {}, {"prompt": "a", "prompt_token_ids": [1]}])
def test_bad_prompt_dicts(llm: LLM, prompt: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError, match="prompt_token_ids"):
        llm.generate(prompt, GREEDY)  # type: ignore[call-overload]


@pytest.mark.parametrize("inputs", [5, None, "\ud800", [["a"]], [None], np.zeros((2, 2))])
def test_what_is_no_prompt(llm: LLM, inputs: object) -> None:
    with pytest.raises(InvalidArgumentError):
        llm.generate(inputs, GREEDY)  # type: ignore[call-overload]


def test_numbers_of_numpy(llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=np.int64(3),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        top_k=np.int32(5),  # type: ignore[arg-type]
        seed=np.uint64(2**63),  # type: ignore[arg-type]
        logprobs=np.int8(2),  # type: ignore[arg-type]
        n=np.int16(2),  # type: ignore[arg-type]
        stop_token_ids=[np.int64(1)],  # type: ignore[list-item]
        logit_bias={np.int64(4): np.float16(1.5)},  # type: ignore[dict-item]
    )
    outputs = llm.generate(np.array([1, 2], np.uint8), params).outputs
    assert [len(sequence.token_ids) for sequence in outputs] == [3, 3]


def test_same_seed_same_tokens(llm: LLM) -> None:
    def draw(seed: int | None) -> list[int]:
        params = SamplingParams(seed=seed, max_tokens=20, ignore_eos=True)
        return llm.generate("x", params).outputs[0].token_ids

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) == draw(0)


def test_several_sequences(llm: LLM) -> None:
    params = SamplingParams(n=3, max_tokens=20, ignore_eos=True, logprobs=0)
    output = llm.generate("x", params)
    assert [sequence.index for sequence in output.outputs] == [0, 1, 2]
    assert len({tuple(sequence.token_ids) for sequence in output.outputs}) == 3
    for sequence in output.outputs:
        assert sequence.logprobs is not None
        drawn = [
            entry[token].logprob
            for entry, token in zip(sequence.logprobs, sequence.token_ids, strict=True)
        ]
        assert sequence.cumulative_logprob == pytest.approx(sum(drawn))


def test_stop_text_and_stop_token(llm: LLM) -> None:
    plain = llm.generate("x", GREEDY).outputs[0]
    stop_token = plain.token_ids[3]
    first = plain.token_ids.index(stop_token)
    stopped = llm.generate("x", replaced(stop_token_ids=[stop_token])).outputs[0]
    assert stopped.token_ids == plain.token_ids[:first]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop_token)
    ended = llm.generate("x", replaced(end_id=stop_token, ignore_eos=False)).outputs[0]
    assert ended.token_ids == plain.token_ids[:first]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    text = plain.text[4:6]
    cut = llm.generate("x", replaced(stop=text)).outputs[0]
    assert cut.text == plain.text[: plain.text.index(text)]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", text)
    kept = llm.generate("x", replaced(stop=[text], include_stop_str_in_output=True)).outputs[0]
    assert kept.text == plain.text[: plain.text.index(text) + len(text)]


def replaced(**changes: object) -> SamplingParams:
    options: dict[str, object] = {"temperature": 0.0, "max_tokens": 12, "ignore_eos": True}
    return SamplingParams(**(options | changes))  # type: ignore[arg-type]


def test_bad_words_and_bias(llm: LLM) -> None:
    plain = llm.generate("x", GREEDY).outputs[0].token_ids
    assert (
        plain[0] not in llm.generate("x", replaced(bad_token_ids=[plain[0]])).outputs[0].token_ids
    )
    banned = replaced(logit_bias={plain[0]: -np.inf})
    assert plain[0] not in llm.generate("x", banned).outputs[0].token_ids
    dense = np.zeros(320)
    dense[plain[0]] = -np.inf
    assert (
        llm.generate("x", replaced(embedding_bias=dense)).outputs[0].token_ids
        == llm.generate("x", banned).outputs[0].token_ids
    )
    letter = next(token for token in plain if token < 128)
    assert letter not in llm.generate("x", replaced(bad=chr(letter))).outputs[0].token_ids


def test_special_tokens_and_truncation(llm: LLM) -> None:
    with_bos = llm.generate("abcdef", GREEDY)
    without = llm.generate("abcdef", replaced(add_special_tokens=False))
    assert with_bos.prompt_token_ids == [BOS_TOKEN_ID, *without.prompt_token_ids]
    cut = llm.generate("abcdef", replaced(truncate_prompt_tokens=2))
    assert cut.prompt_token_ids == with_bos.prompt_token_ids[-2:]
    assert llm.generate("x", replaced(detokenize=False)).outputs[0].text == ""
    only_bos = replaced(logit_bias={BOS_TOKEN_ID: 1e6}, max_tokens=2)
    assert llm.generate("x", only_bos).outputs[0].text == ""
    shown = replaced(logit_bias={BOS_TOKEN_ID: 1e6}, max_tokens=2, skip_special_tokens=False)
    assert llm.generate("x", shown).outputs[0].text == "<|begin_of_text|>" * 2


def test_logits(llm: LLM) -> None:
    params = replaced(return_context_logits=True, return_generation_logits=True)
    output = llm.generate("abc", params)
    assert output.context_logits is not None
    assert output.context_logits.shape == (4, 320)
    logits = output.outputs[0].generation_logits
    assert logits is not None
    assert logits.argmax(axis=1).tolist() == output.outputs[0].token_ids


def test_prompt_logprobs(llm: LLM) -> None:
    output = llm.generate("abc", replaced(prompt_logprobs=1, max_tokens=0))
    assert output.prompt_logprobs is not None
    first, *others = output.prompt_logprobs
    assert first is None
    tokens = [next(iter(entry)) for entry in others if entry is not None]
    assert tokens == output.prompt_token_ids[1:]
    assert (output.outputs[0].token_ids, output.outputs[0].finish_reason) == ([], "length")
    assert llm.generate("abc", GREEDY).prompt_logprobs is None


def test_chat(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    output = llm.chat(messages, GREEDY)
    assert output.prompt == "<|begin_of_text|><|user|>Hi<|end|><|assistant|>"
    assert output.prompt_token_ids == llm.tokenizer.encode(output.prompt, add_special_tokens=False)


def test_streaming_in_a_thread(llm: LLM) -> None:
    expected = llm.generate("x", GREEDY).outputs[0]
    updates = list(llm.generate_async("x", GREEDY, streaming=True))
    assert len(updates) > 1
    assert [update.finished for update in updates] == [False] * (len(updates) - 1) + [True]
    assert "".join(update.outputs[0].text_diff for update in updates) == expected.text
    tokens = [token for update in updates for token in update.outputs[0].token_ids_diff]
    assert tokens == updates[-1].outputs[0].token_ids == expected.token_ids
    lengths = [len(update.outputs[0].token_ids) for update in updates]
    assert lengths == sorted(lengths)


def test_result_with_timeout(slow_llm: LLM) -> None:
    generation = slow_llm.generate_async("x", LONG)
    with pytest.raises(TimeoutError):
        generation.result(timeout=1e-4)
    generation.abort()
    assert generation.result().outputs[0].finish_reason == "cancelled"
    generation.abort()


def test_streaming_in_tasks(llm: LLM) -> None:
    expected = llm.generate("x", GREEDY).outputs[0].token_ids

    async def one() -> list[int]:
        tokens: list[int] = []
        async for update in llm.generate_async("x", GREEDY, streaming=True):
            tokens += update.outputs[0].token_ids_diff
        return tokens

    async def many() -> list[list[int]]:
        return await asyncio.gather(*(one() for _ in range(9)))

    assert asyncio.run(many()) == [expected] * 9


def test_awaiting(llm: LLM) -> None:
    async def both() -> None:
        plain = await llm.generate_async("x", GREEDY)
        # An iterator that nobody read does not keep the end from being awaited.
        streaming = await llm.generate_async("x", GREEDY, streaming=True)
        assert plain.outputs[0].token_ids == streaming.outputs[0].token_ids

    asyncio.run(both())


def test_cancelled_task_cancels_its_request(slow_llm: LLM) -> None:
    async def run() -> None:
        generation = slow_llm.generate_async("x", LONG)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(generation, 1e-3)
        assert (await generation).outputs[0].finish_reason == "cancelled"

    asyncio.run(run())
    wait_until(lambda: all_blocks_are_free(slow_llm))


def test_closing_an_iterator_cancels_its_request(slow_llm: LLM) -> None:
    async def run() -> None:
        generation = slow_llm.generate_async("x", LONG, streaming=True)
        await anext(generation)
        await generation.aclose()
        assert generation.finished
        async with slow_llm.generate_async("x", LONG, streaming=True) as other:
            await other.__anext__()
        assert other.result().outputs[0].finish_reason == "cancelled"

    asyncio.run(run())
    wait_until(lambda: all_blocks_are_free(slow_llm))


def test_dropping_a_generation_cancels_it(slow_llm: LLM) -> None:
    before = slow_llm.stats().num_output_tokens
    generation = slow_llm.generate_async("x", LONG)
    del generation
    gc.collect()
    wait_until(lambda: all_blocks_are_free(slow_llm))
    assert slow_llm.stats().num_output_tokens - before < 200


def test_from_many_threads(llm: LLM) -> None:
    expected = llm.generate("x", GREEDY).outputs[0].token_ids
    found: list[list[int]] = []

    def work() -> None:
        for _ in range(5):
            found.append(llm.generate("x", GREEDY).outputs[0].token_ids)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 30


def test_ten_thousand_requests_at_once(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    alone = [llm.generate([index, 1], params).outputs[0].token_ids for index in range(100)]
    outputs = llm.generate([[index % 100, 1] for index in range(10_000)], params)
    assert [output.outputs[0].token_ids for output in outputs] == alone * 100
    wait_until(lambda: all_blocks_are_free(llm))


def test_a_full_queue_makes_generate_wait_and_generate_async_refuse(engine_path: Path) -> None:
    config = SchedulerConfig(max_queue_size=2)
    with LLM(engine_path, scheduler_config=config, max_batch_size=1) as llm:
        outputs = llm.generate([[1]] * 20, GREEDY)
        assert len(outputs) == 20
    executor = FormulaExecutor(320, num_blocks=64, step_seconds=0.02)
    with LLM(engine_path, scheduler_config=config, max_batch_size=1, executor=executor) as llm:
        held = []
        with pytest.raises(QueueFullError):
            for _ in range(20):
                held.append(llm.generate_async([1], LONG))
        assert len(held) >= 2


def test_kv_cache_config(engine_path: Path) -> None:
    with LLM(engine_path, kv_cache_config=KvCacheConfig(max_tokens=100)) as llm:
        assert llm.stats().num_blocks == 7  # of 16 tokens
    with LLM(engine_path, kv_cache_config=KvCacheConfig(free_gpu_memory_fraction=1e-3)) as llm:
        assert llm.stats().num_blocks > 0
    prompt = list(range(60))
    with LLM(engine_path, kv_cache_config=KvCacheConfig(enable_block_reuse=False)) as llm:
        assert [llm.generate(prompt, GREEDY).metrics.num_reused_tokens for _ in "ab"] == [0, 0]
    with LLM(engine_path) as llm:
        assert [llm.generate(prompt, GREEDY).metrics.num_reused_tokens for _ in "ab"] == [0, 48]


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"lora_config": object()}, ["lora_config", "LoRA"]),
        ({"speculative_config": {}, "backend": "pytorch"}, ["speculative", "target", "2 problems"]),
        ({"max_batchsize": 3}, ["did you mean max_batch_size"]),
        ({"dtype": "bfloat16", "max_seq_len": 7}, ["'float32'", "256", "2 problems"]),
        ({"tensor_parallel_size": 2}, ["tensor_parallel_size"]),
        ({"max_batch_size": 9}, ["max_batch_size"]),
    ],
)
def test_refused_options(
    engine_path: Path, options: dict[str, object], messages: list[str]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LLM(engine_path, **options)  # type: ignore[arg-type]
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (KvCacheConfig, {"kv_cache_bytes": 0}, "kv_cache_bytes"),
        (KvCacheConfig, {"kv_cache_bytes": 1, "max_tokens": 1}, "give one"),
        (KvCacheConfig, {"free_gpu_memory_fraction": 1.0}, "free_gpu_memory_fraction"),
        (KvCacheConfig, {"host_cache_size": 5}, "offload"),
        (KvCacheConfig, {"sink_token_length": 4, "max_tokens": 4}, "sinks"),
        (SchedulerConfig, {"capacity_scheduler_policy": "LIFO"}, "LIFO"),
        (SchedulerConfig, {"max_queue_size": -1}, "max_queue_size"),
        (SchedulerConfig, {"context_chunking_policy": "EQUAL_PROGRESS"}, "chunk"),
    ],
)
def test_refused_configs(config: type, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        config(**options)


def test_options_that_are_what_the_engine_has(engine_path: Path) -> None:
    with LLM(
        engine_path,
        dtype="auto",
        max_seq_len=256,
        tensor_parallel_size=1,
        trust_remote_code=False,
        kv_cache_config=KvCacheConfig(dtype="float32"),
    ) as llm:
        assert llm.executor_name
    with pytest.raises(InvalidArgumentError, match="kv_cache_dtype bfloat16"):
        LLM(engine_path, kv_cache_config=KvCacheConfig(dtype="bfloat16"))


def test_tokenizer_from_elsewhere_and_none(engine_path: Path, tmp_path: Path) -> None:
    rank_file = tmp_path / "rank0.engine"
    rank_file.symlink_to(engine_path / "rank0.engine")
    with LLM(tmp_path) as bare:
        assert len(bare.generate([1, 2], GREEDY).outputs[0].text) > 0
        with pytest.raises(NotFoundError, match=r"tokenizer\.json"):
            bare.generate("text", GREEDY)
    for tokenizer in (engine_path, Tokenizer(engine_path)):
        with LLM(rank_file, tokenizer) as llm:
            assert llm.generate("text", GREEDY).prompt == "text"


def test_close_ends_what_runs(engine_path: Path) -> None:
    llm = LLM(engine_path)
    generations = [llm.generate_async([1], LONG) for _ in range(3)]
    llm.close()
    llm.close()
    for generation in generations:
        # Some may have ended; those that are cut off say so in one way or the other.
        with contextlib.suppress(ShutDownError):
            assert generation.result().outputs[0].finish_reason in ("cancelled", "length")
    with pytest.raises(EngineryError):
        llm.generate([1], GREEDY)


def test_an_interpreter_that_forgets_to_close_ends(engine_path: Path) -> None:
    script = (
        "from enginery.runtime.llm import LLM\n"
        f"llm = LLM({str(engine_path)!r})\n"
        "held = [llm.generate_async([1, 2], streaming=True) for _ in range(4)]\n"
        "print(len(llm.generate([1, 2]).outputs[0].token_ids))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert int(ran.stdout) > 0
