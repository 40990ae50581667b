# SPDX-License-Identifier: Apache-2.0
"""What a long prompt does to requests that are decoding, with chunked prefill on and off."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from enginery.bench.errors import BenchError
from enginery.bench.metrics import Distribution, RequestRecord
from enginery.bench.workload import Span, random_requests
from enginery.runtime.engine import Engine
from enginery.runtime.runtime import Runtime, RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams

TOKENS_BEFORE_ARRIVAL = 8


@dataclass(frozen=True)
class Scenario:
    """`num_decoding` requests decode; a prompt of `prompt_len` tokens arrives among them."""

    prompt_len: int = 4096
    num_decoding: int = 8
    decoding_input_len: int = 16
    decoding_output_len: int = 64
    chunk_tokens: int = 256
    """Longest piece of the prompt in one step, with chunked prefill on."""
    seed: int = 0


@dataclass(frozen=True)
class ScenarioResult:
    """Latencies in milliseconds."""

    chunked: bool
    tpot: Distribution
    """Of the decoding requests."""
    itl: Distribution
    """Of the decoding requests: its maximum is the longest they stood still."""
    long_prompt_ttft_ms: float
    records: list[RequestRecord]
    """The decoding requests, then the one with the long prompt."""


def run_scenario(
    engine: Engine, options: RuntimeOptions, scenario: Scenario, *, chunked: bool
) -> ScenarioResult:
    """Runs the scenario once.

    Raises:
        BenchError: the engine's limits leave no room for it.
    """
    check_scenario(engine, options, scenario)
    options = replace(
        options,
        enable_chunked_context=chunked,
        max_chunk_tokens=scenario.chunk_tokens if chunked else 0,
        max_queue_size=0,
    )
    rng = np.random.default_rng(scenario.seed)
    vocab_size = engine.info.vocab_size
    decoding = random_requests(
        scenario.num_decoding,
        Span(scenario.decoding_input_len, scenario.decoding_input_len),
        Span(scenario.decoding_output_len, scenario.decoding_output_len),
        vocab_size,
        rng,
    )
    long_prompt = rng.integers(vocab_size, size=scenario.prompt_len).tolist()
    with Runtime(engine, options) as runtime:
        player = _Player(runtime)
        for request in decoding:
            player.submit(request.prompt_token_ids, request.output_tokens)
        # The long prompt arrives once every other request is decoding.
        player.receive_until(
            lambda: all(
                r.num_output_tokens >= TOKENS_BEFORE_ARRIVAL or r.end_time is not None
                for r in player.records
            )
        )
        player.submit(long_prompt, 2)
        player.receive_until(lambda: all(r.end_time is not None for r in player.records))
    *others, last = player.records
    failures = [record.error for record in player.records if record.error is not None]
    if failures:
        raise BenchError(f"chunked prefill scenario: a request failed: {failures[0]}")
    return ScenarioResult(
        chunked=chunked,
        tpot=Distribution.of([tpot for r in others if (tpot := r.tpot_ms) is not None]),
        itl=Distribution.of([gap for record in others for gap in record.itls_ms]),
        long_prompt_ttft_ms=last.ttft_ms,
        records=player.records,
    )


def check_scenario(engine: Engine, options: RuntimeOptions, scenario: Scenario) -> None:
    """Refuses limits with which the two runs would not be the same but for the chunks."""
    info = engine.info
    max_num_tokens = options.max_num_tokens or info.max_num_tokens
    max_batch_size = options.max_batch_size or info.max_batch_size
    needs = {
        "max_input_len": (info.max_input_len, scenario.prompt_len),
        "max_seq_len": (info.max_seq_len, scenario.prompt_len + 2),
        # Without chunks the prompt goes through in one step, beside the decoding requests.
        "max_num_tokens": (max_num_tokens, scenario.prompt_len + scenario.num_decoding),
        "max_batch_size": (max_batch_size, scenario.num_decoding + 1),
    }
    problems = [
        f"{name} is {has}, the scenario needs {needed}"
        for name, (has, needed) in needs.items()
        if has < needed
    ]
    if scenario.decoding_output_len <= TOKENS_BEFORE_ARRIVAL:
        problems.append(
            f"decoding_output_len is {scenario.decoding_output_len}, must be above "
            f"{TOKENS_BEFORE_ARRIVAL}"
        )
    if problems:
        raise BenchError("chunked prefill scenario: " + "; ".join(problems))


class _Player:
    """Submits and receives on one thread: who submits depends on what was received."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._by_id: dict[int, RequestRecord] = {}
        self.records: list[RequestRecord] = []

    def submit(self, prompt_token_ids: list[int], output_tokens: int) -> None:
        record = RequestRecord(len(self.records), len(prompt_token_ids), time.monotonic())
        params = SamplingParams(max_tokens=output_tokens, ignore_eos=True, temperature=0.0)
        self._by_id[self._runtime.submit(prompt_token_ids, params)] = record
        self.records.append(record)

    def receive_until(self, done: Callable[[], bool]) -> None:
        while not done():
            events = self._runtime.poll(1000)
            now = time.monotonic()
            for event in events:
                self._by_id[event.request_id].add(event, now)
