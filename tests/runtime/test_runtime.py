# SPDX-License-Identifier: Apache-2.0
"""The serving loop from Python, on the built-in executor and on one written in Python."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enginery.accuracy import log_softmax
from enginery.runtime.batch import SAMPLE_HOST_ONLY, ScheduledBatch
from enginery.runtime.engine import Engine
from enginery.runtime.errors import (
    EngineryError,
    InvalidArgumentError,
    QueueFullError,
    ShutDownError,
)
from enginery.runtime.event import Event
from enginery.runtime.executor import ExecutorInfo, Limits, StepOutput
from enginery.runtime.library import library_version
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.executors import FormulaExecutor, next_token
from tests.support.serving import settled

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
VOCAB_SIZE = 320


def finish(runtime: Runtime, *request_ids: int) -> dict[int, list[Event]]:
    """Polls until the requests have ended; their events in order."""
    events: dict[int, list[Event]] = defaultdict(list)
    waiting = set(request_ids)
    deadline = time.monotonic() + 60
    while waiting:
        assert time.monotonic() < deadline, f"requests {waiting} do not end"
        for event in runtime.poll(1000):
            events[event.request_id].append(event)
            if event.is_last:
                waiting.discard(event.request_id)
    return events


def tokens_of(events: list[Event]) -> list[int]:
    return [token for event in events for token in event.token_ids]


def expected_tokens(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(np.array(tokens), VOCAB_SIZE))
    return tokens[len(prompt) :]


def random_prompts(count: int, longest: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(VOCAB_SIZE, size=rng.integers(1, longest)).tolist() for _ in range(count)]


def test_streams_a_request(engine: Engine) -> None:
    with Runtime(engine) as runtime:
        request = runtime.submit([1, 2, 3], GREEDY)
        events = finish(runtime, request)[request]
    assert len(tokens_of(events)) == 8
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    assert (last.finish_reason, last.status, last.error) == ("LENGTH", "OK", "")
    assert last.num_prompt_tokens == 3
    assert last.num_output_tokens == 8
    times = (last.arrival_ns, last.first_scheduled_ns, last.first_token_ns, last.last_token_ns)
    assert None not in times
    assert list(times) == sorted(times)  # type: ignore[type-var]
    assert abs(time.monotonic_ns() - (last.last_token_ns or 0)) < 60e9


def test_without_streaming_there_is_one_event(engine: Engine) -> None:
    with Runtime(engine) as runtime:
        request = runtime.submit([1, 2, 3], GREEDY, streaming=False)
        events = finish(runtime, request)[request]
    assert len(events) == 1
    assert len(events[0].token_ids) == 8


@pytest.mark.parametrize("max_chunk_tokens", [0, 1, 7])
def test_prompt_logprobs_are_those_of_the_context_logits(
    engine: Engine, max_chunk_tokens: int
) -> None:
    prompt = [(7 * i * i + 3) % VOCAB_SIZE for i in range(23)]
    logits = replace(GREEDY, return_context_logits=True, max_tokens=1)
    options = RuntimeOptions(max_chunk_tokens=max_chunk_tokens)
    with Runtime(engine, options) as runtime:
        asked = runtime.submit(prompt, logits)
        (first, *_) = finish(runtime, asked)[asked]
        assert first.context_logits is not None
        assert first.prompt_logprobs is None
        expected = log_softmax(first.context_logits)
        # The prompt is in the prefix cache now, and computed again all the same.
        both = replace(logits, prompt_logprobs=3, temperature=1.0, repetition_penalty=2.0)
        asked = runtime.submit(prompt, both)
        (event, *_) = finish(runtime, asked)[asked]
        assert event.num_reused_tokens == 0
        assert event.context_logits is not None
        np.testing.assert_array_equal(event.context_logits, first.context_logits)
        alone = runtime.submit(prompt, replace(both, max_tokens=0, return_context_logits=False))
        (scored,) = finish(runtime, alone)[alone]
    assert (scored.finish_reason, scored.token_ids) == ("LENGTH", [])
    assert scored.prompt_logprobs == event.prompt_logprobs
    assert event.prompt_logprobs is not None
    rows = zip(prompt[1:], event.prompt_logprobs, expected[:-1], strict=True)
    for token, ((own, log_prob), *best), row in rows:
        assert own == token
        assert log_prob == pytest.approx(row[token], abs=1e-5)
        assert [found for found, _ in best] == np.argsort(-row, kind="stable")[:3].tolist()
        assert [value for _, value in best] == pytest.approx(sorted(row)[:-4:-1], abs=1e-5)


def test_stop_token_may_stay_without_its_text(engine: Engine) -> None:
    with Runtime(engine) as runtime:
        asked = runtime.submit([5, 6], replace(GREEDY, max_tokens=1))
        (event,) = finish(runtime, asked)[asked]
        (stop,) = event.token_ids
        assert event.text
        params = replace(GREEDY, stop_token_ids=[stop], include_stop_token=True, logprobs=0)
        asked = runtime.submit([5, 6], params)
        (event,) = finish(runtime, asked)[asked]
    assert (event.token_ids, event.text) == ([stop], "")
    assert (event.finish_reason, event.stop_token_id) == ("STOP", stop)
    assert event.logprobs is not None
    assert event.logprobs[0][0][0] == stop


def test_logits_and_logprobs(engine: Engine) -> None:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=3,
        ignore_eos=True,
        logprobs=2,
        return_context_logits=True,
        return_generation_logits=True,
    )
    with Runtime(engine) as runtime:
        request = runtime.submit([5, 6, 7, 8], params, streaming=False)
        (event,) = finish(runtime, request)[request]
    assert event.context_logits is not None
    assert event.context_logits.shape == (4, VOCAB_SIZE)
    assert event.generation_logits is not None
    assert event.generation_logits.shape == (3, VOCAB_SIZE)
    # The first token is drawn from the last prompt position's logits.
    np.testing.assert_array_equal(event.context_logits[-1], event.generation_logits[0])
    assert event.token_ids == event.generation_logits.argmax(axis=1).tolist()
    assert event.logprobs is not None
    for row, token, entry in zip(
        event.generation_logits, event.token_ids, event.logprobs, strict=True
    ):
        shifted = row.astype(np.float64) - row.max()
        logprobs = shifted - np.log(np.exp(shifted).sum())
        best = np.argsort(-logprobs)[:2].tolist()
        assert [candidate for candidate, _ in entry] == [token, *best]
        for candidate, logprob in entry:
            assert logprob == pytest.approx(logprobs[candidate], abs=1e-4)


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "prompt"),
        ([VOCAB_SIZE], {}, "320"),
        ([-1], {}, "-1"),
        ([2**40], {}, str(2**40)),
        ([1.5], {}, "integers"),
        ([1] * 257, {}, "257"),
        ([1] * 10, {"max_tokens": 247}, "max_tokens"),
        ([1], {"max_tokens": 2**62}, "max_tokens"),
        ([1], {"max_tokens": 2**70}, "max_tokens"),
        ([1], {"n": 9}, "num_return_sequences"),
        ([1], {"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ([1], {"bad_token_ids": [VOCAB_SIZE]}, "bad_token"),
        ([1], {"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ([1], {"embedding_bias": np.ones(7)}, "embedding_bias"),
        ([1], {"bad": ["word"]}, "bad"),
    ],
)
def test_refuses_a_bad_request_and_goes_on(
    engine: Engine, prompt: list[int], params: dict[str, object], message: str
) -> None:
    with Runtime(engine) as runtime:
        with pytest.raises(InvalidArgumentError, match=message):
            runtime.submit(prompt, SamplingParams(**params))  # type: ignore[arg-type]
        request = runtime.submit([1], GREEDY)
        assert len(tokens_of(finish(runtime, request)[request])) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "FIFO"}, "policy"),
        ({"max_batch_size": 9}, "max_batch_size"),
        ({"max_num_tokens": 65}, "max_num_tokens"),
        ({"kv_cache_bytes": -1}, "kv_cache_bytes"),
        ({"num_threads": -1}, "num_threads"),
        ({"num_threads": 2**31}, "num_threads"),
        ({"isa": "mmx"}, "mmx"),
        ({"watchdog_timeout_ms": -1}, "watchdog_timeout_ms"),
        ({"watchdog_timeout_ms": 1, "watchdog_dir": "/nowhere"}, "watchdog_dir is /nowhere"),
    ],
)
def test_refuses_bad_options(engine: Engine, options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Runtime(engine, RuntimeOptions(**options))  # type: ignore[arg-type]


def test_cancel(engine: Engine) -> None:
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=40, step_seconds=0.02)
    with Runtime(engine, executor=executor) as runtime:
        params = SamplingParams(max_tokens=200, ignore_eos=True)
        request = runtime.submit([1], params)
        assert runtime.cancel(request)
        events = finish(runtime, request)[request]
        assert events[-1].finish_reason == "CANCELLED"
        stats = settled(runtime)
        assert stats.num_free_blocks == stats.num_blocks
        assert not runtime.cancel(request)
        assert not runtime.cancel(10**6)


def test_queue_bound(engine: Engine) -> None:
    # No step ends before the queue has filled up: the executor waits.
    gate = threading.Event()

    class Gated(FormulaExecutor):
        def execute(self, batch: ScheduledBatch) -> None:
            gate.wait(30)
            super().execute(batch)

    options = RuntimeOptions(max_queue_size=2, kv_cache_bytes=1024)
    with Runtime(engine, options, executor=Gated(VOCAB_SIZE)) as runtime:
        submitted = []
        with pytest.raises(QueueFullError):
            for _ in range(20):
                submitted.append(runtime.submit([1], GREEDY))
        gate.set()
        events = finish(runtime, *submitted)
        assert all(len(tokens_of(events[request])) == 8 for request in submitted)
        runtime.submit([1], GREEDY)


def test_stats_and_iterations(engine: Engine) -> None:
    options = RuntimeOptions(iteration_stats_capacity=5)
    with Runtime(engine, options) as runtime:
        before = runtime.stats()
        assert before.num_blocks == before.num_free_blocks > 0
        requests = [runtime.submit([1, 2, index], GREEDY) for index in range(3)]
        finish(runtime, *requests)
        stats = settled(runtime)
        assert (stats.num_requests, stats.num_finished) == (3, 3)
        assert (stats.num_prompt_tokens, stats.num_output_tokens) == (9, 24)
        assert stats.num_free_blocks == stats.num_blocks
        iterations = runtime.iterations()
        assert len(iterations) == 5
        assert sum(stats.step_time_counts) == stats.num_iterations > 5
        starts = [entry.start_ns for entry in iterations]
        assert starts == sorted(starts)
        assert all(entry.duration_ns >= entry.executor_ns > 0 for entry in iterations)
        assert runtime.executor_name in ("amx", "avx512", "avx2", "portable")


def test_a_stall_is_told_with_what_was_in_flight(engine: Engine, tmp_path: Path) -> None:
    may_go_on = threading.Event()

    class Held(FormulaExecutor):
        def collect(self) -> StepOutput:
            assert may_go_on.wait(60)
            return super().collect()

    told: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    options = RuntimeOptions(watchdog_timeout_ms=50, watchdog_dir=str(tmp_path))
    with Runtime(
        engine,
        options,
        executor=Held(VOCAB_SIZE, num_blocks=40),
        on_stall=lambda path, message: told.put((path, message)),
    ) as runtime:
        request = runtime.submit([1, 2, 3], GREEDY, client_request_id="chat-7")
        path, message = told.get(timeout=60)
        assert path in message
        state = json.loads(Path(path).read_text())
        assert Path(path).parent == tmp_path
        may_go_on.set()
        assert len(tokens_of(finish(runtime, request)[request])) == 8
    (sequence,) = state["batch"]
    assert (sequence["request_id"], sequence["client_request_id"]) == (request, "chat-7")
    assert (state["stage"], sequence["phase"]) == ("executor", "prefill")
    assert state["library_version"] == library_version()


STOPPED = """
import sys
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from tests.support.executors import FormulaExecutor
class Held(FormulaExecutor):
    def collect(self):
        print("held", flush=True)
        sys.stdin.readline()
        return super().collect()
stalls = []
with Engine(sys.argv[1]) as engine, Runtime(
    engine, RuntimeOptions(watchdog_timeout_ms=2000), executor=Held(engine.info.vocab_size, 40),
    on_stall=lambda *told: stalls.append(told),
) as runtime:
    runtime.submit([1, 2, 3], SamplingParams(max_tokens=1))
    while not any(event.is_last for event in runtime.poll()): pass
print(len(stalls))
"""


def test_a_process_that_is_stopped_has_no_stall(engine: Engine) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, engine.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go on\n", timeout=60)[0] == "0\n"


def test_close_wakes_who_polls_and_refuses_what_follows(engine: Engine) -> None:
    runtime = Runtime(engine)
    outcome: list[object] = []

    def poll() -> None:
        try:
            while True:
                outcome.append(runtime.poll(-1))
        except ShutDownError:
            outcome.append("shut down")

    thread = threading.Thread(target=poll)
    thread.start()
    time.sleep(0.05)
    runtime.close()
    thread.join(30)
    assert outcome[-1] == "shut down"
    runtime.close()
    with pytest.raises(ShutDownError):
        runtime.submit([1])


def test_shutdown_drains(engine: Engine) -> None:
    with Runtime(engine) as runtime:
        request = runtime.submit([1], GREEDY)
        runtime.shutdown(drain=True)
        with pytest.raises(ShutDownError):
            runtime.submit([1])
        events: list[Event] = []
        with pytest.raises(ShutDownError):
            while True:
                events += runtime.poll(1000)
        assert {event.request_id for event in events} == {request}
        assert len(tokens_of(events)) == 8
        assert events[-1].finish_reason == "LENGTH"


@pytest.mark.parametrize("policy", ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"])
@pytest.mark.parametrize("max_chunk_tokens", [0, 5])
def test_python_executor(engine: Engine, policy: str, max_chunk_tokens: int) -> None:
    # 20 blocks of 16 tokens: too few for 8 sequences of 60 + 30 tokens.
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=20)
    options = RuntimeOptions(policy=policy, max_chunk_tokens=max_chunk_tokens)
    params = SamplingParams(temperature=0.0, max_tokens=30, ignore_eos=True)
    prompts = random_prompts(13, 60, seed=1)
    with Runtime(engine, options, executor=executor) as runtime:
        requests = [runtime.submit(prompt, params) for prompt in prompts]
        events = finish(runtime, *requests)
        for request, prompt in zip(requests, prompts, strict=True):
            assert tokens_of(events[request]) == expected_tokens(prompt, 30)
        stats = settled(runtime)
        assert stats.num_free_blocks == stats.num_blocks == 20
        assert (stats.num_preemptions > 0) == (policy == "MAX_UTILIZATION")
    assert executor.is_closed
    assert executor.limits is not None
    assert executor.limits.tokens_per_block == 16


def test_python_executor_shares_prefixes(engine: Engine) -> None:
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=40)
    prefix = random_prompts(1, 100, seed=3)[0] * 4
    prompts = [[*prefix[:70], index] for index in range(6)]
    with Runtime(engine, executor=executor) as runtime:
        first = runtime.submit(prompts[0], GREEDY)
        events = finish(runtime, first)
        rest = [runtime.submit(prompt, GREEDY) for prompt in prompts[1:]]
        events |= finish(runtime, *rest)
        for request, prompt in zip([first, *rest], prompts, strict=True):
            assert tokens_of(events[request]) == expected_tokens(prompt, 8)
        assert all(events[request][-1].num_reused_tokens == 64 for request in rest)


def test_several_sequences_of_one_prompt(engine: Engine) -> None:
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=40)
    params = SamplingParams(n=3, max_tokens=20, temperature=0.0, ignore_eos=True)
    prompt = list(range(21))
    with Runtime(engine, executor=executor) as runtime:
        request = runtime.submit(prompt, params)
        by_sequence: dict[int, list[int]] = defaultdict(list)
        for event in finish(runtime, request)[request]:
            by_sequence[event.sequence_index] += event.token_ids
        assert settled(runtime).num_free_blocks == 40
    assert dict(sorted(by_sequence.items())) == dict.fromkeys(range(3), expected_tokens(prompt, 20))


def test_a_step_that_fails_ends_its_requests_alone(engine: Engine) -> None:
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=40, fail_at_steps=frozenset({2}))
    with Runtime(engine, executor=executor) as runtime:
        request = runtime.submit([1, 2], GREEDY)
        last = finish(runtime, request)[request][-1]
        assert (last.finish_reason, last.status) == ("ERROR", "EXECUTOR_FAILED")
        assert "step 2 was told to fail" in last.error
        after = runtime.submit([1, 2], GREEDY)
        assert tokens_of(finish(runtime, after)[after]) == expected_tokens([1, 2], 8)
        assert settled(runtime).num_free_blocks == 40


def test_an_executor_that_cannot_start(engine: Engine) -> None:
    class Broken(FormulaExecutor):
        def init(self, limits: Limits, kv_cache_bytes: int) -> ExecutorInfo:
            raise RuntimeError("no device")

    executor = Broken(VOCAB_SIZE)
    with pytest.raises(EngineryError, match="no device"):
        Runtime(engine, executor=executor)
    assert executor.is_closed


def test_logits_of_the_wrong_shape_are_refused(engine: Engine) -> None:
    class Wrong(FormulaExecutor):
        def collect(self) -> StepOutput:
            logits = super().collect().logits
            assert logits is not None
            return StepOutput(logits[:, :-1])

    with Runtime(engine, executor=Wrong(VOCAB_SIZE)) as runtime:
        request = runtime.submit([1], GREEDY)
        assert "shape" in finish(runtime, request)[request][-1].error


def test_timeout(engine: Engine) -> None:
    executor = FormulaExecutor(VOCAB_SIZE, num_blocks=40, step_seconds=0.02)
    with Runtime(engine, executor=executor) as runtime:
        params = SamplingParams(max_tokens=250, temperature=0.0, ignore_eos=True)
        request = runtime.submit([1], params, timeout_ms=100)
        last = finish(runtime, request)[request][-1]
        assert last.finish_reason == "TIMEOUT"
        stats = settled(runtime)
        assert stats.num_free_blocks == stats.num_blocks


class DrawingExecutor(FormulaExecutor):
    """Draws the tokens itself and keeps the logits back, always or where nobody may want them."""

    forgets_logits = False
    num_spared_steps = 0

    def execute(self, batch: ScheduledBatch) -> None:
        super().execute(batch)
        self._tokens = self._logits.argmax(axis=1)[batch.samples["logit_row"]].astype(np.int32)
        self._tokens[(batch.samples["flags"] & SAMPLE_HOST_ONLY) != 0] = -1
        rows = set(batch.samples["logit_row"].tolist())
        self._are_wanted = (self._tokens < 0).any() or len(rows) < len(batch.logit_rows)

    def collect(self) -> StepOutput:
        is_spared = self.forgets_logits or not self._are_wanted
        self.num_spared_steps += is_spared
        return StepOutput(None if is_spared else self._logits, self._tokens)


def test_logits_are_spared_where_nobody_reads_them(engine: Engine) -> None:
    executor = DrawingExecutor(VOCAB_SIZE, num_blocks=40)
    with Runtime(engine, executor=executor) as runtime:
        plain = runtime.submit([5, 6, 7], GREEDY)
        assert tokens_of(finish(runtime, plain)[plain]) == expected_tokens([5, 6, 7], 8)
        assert executor.num_spared_steps == 8
        params = replace(GREEDY, return_context_logits=True, max_tokens=2)
        asked = runtime.submit([9], params, streaming=False)
        context_logits = finish(runtime, asked)[asked][-1].context_logits
        assert executor.num_spared_steps == 9
        assert context_logits is not None
        assert context_logits.shape == (1, VOCAB_SIZE)


def test_logits_that_are_needed_and_absent_end_the_request(engine: Engine) -> None:
    executor = DrawingExecutor(VOCAB_SIZE, num_blocks=40)
    executor.forgets_logits = True
    with Runtime(engine, executor=executor) as runtime:
        for params, message in (
            (replace(GREEDY, logprobs=1), "neither logits nor a token"),
            (replace(GREEDY, return_context_logits=True), "positions 0..2"),
            (replace(GREEDY, prompt_logprobs=0), "positions 0..1"),
        ):
            request = runtime.submit([5, 6, 7], params)
            last = finish(runtime, request)[request][-1]
            assert last.finish_reason == "ERROR"
            assert message in last.error
