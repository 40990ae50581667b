# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np

from enginery.runtime.event import Event
from enginery.runtime.outputs import CompletionOutput, Logprob, RequestOutput
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tracker import RequestTracker

EVENT = Event(
    request_id=1,
    sequence_index=0,
    finish_reason=None,
    is_last=False,
    status="OK",
    error="",
    token_ids=[],
    text="",
    logprobs=None,
    prompt_logprobs=None,
    context_logits=None,
    generation_logits=None,
    stop_string=None,
    stop_token_id=None,
    num_preemptions=0,
    num_prompt_tokens=3,
    num_reused_tokens=0,
    num_output_tokens=0,
    arrival_ns=5,
    first_scheduled_ns=None,
    first_token_ns=None,
    last_token_ns=None,
)


def make(params: SamplingParams) -> RequestTracker:
    outputs = [CompletionOutput(index) for index in range(params.n)]
    return RequestTracker(RequestOutput(1, None, [1, 2, 3], outputs), params)


def event(**changes: object) -> Event:
    return dataclasses.replace(EVENT, **changes)  # type: ignore[arg-type]


def test_sequences_grow_apart() -> None:
    tracker = make(SamplingParams(n=2))
    tracker.update(event(sequence_index=1, token_ids=[7], text="a", first_token_ns=20))
    tracker.update(event(sequence_index=0, token_ids=[8, 9], text="bc", first_token_ns=10,
                         last_token_ns=11))  # fmt: skip
    first, second = tracker.output.outputs
    assert (first.token_ids, first.text, second.token_ids, second.text) == ([8, 9], "bc", [7], "a")
    assert (first.text_diff, second.text_diff) == ("bc", "")
    assert tracker.output.metrics.first_token_ns == 10
    assert tracker.output.metrics.last_token_ns == 11
    assert not tracker.output.finished


def test_snapshots_stand_still() -> None:
    tracker = make(SamplingParams())
    tracker.update(event(token_ids=[7], text="a"))
    snapshot = tracker.snapshot()
    tracker.update(event(token_ids=[8], text="b", finish_reason="LENGTH", is_last=True))
    assert (snapshot.outputs[0].token_ids, snapshot.outputs[0].text) == ([7], "a")
    assert not snapshot.finished
    assert snapshot.outputs[0].finish_reason is None
    assert tracker.output.outputs[0].token_ids == [7, 8]
    assert tracker.output.finished


def test_logprobs() -> None:
    tracker = make(SamplingParams(logprobs=2))
    tracker.update(event(token_ids=[7], logprobs=[[(7, -2.0), (4, -0.5), (7, -2.0)]]))
    tracker.update(event(token_ids=[9], logprobs=[[(9, -3.0), (4, -0.25), (5, -1.0)]]))
    (sequence,) = tracker.output.outputs
    assert sequence.logprobs == [
        {7: Logprob(-2.0, 2), 4: Logprob(-0.5, 1)},
        {9: Logprob(-3.0, None), 4: Logprob(-0.25, 1), 5: Logprob(-1.0, 2)},
    ]
    assert [next(iter(entry)) for entry in sequence.logprobs] == [7, 9]
    assert sequence.cumulative_logprob == -5.0


def test_prompt_logprobs_stand_at_their_tokens() -> None:
    tracker = make(SamplingParams(prompt_logprobs=1))
    tracker.update(event(prompt_logprobs=[[(2, -1.0), (5, -0.5)], [(3, -0.25), (3, -0.25)]]))
    expected = [None, {2: Logprob(-1.0, None), 5: Logprob(-0.5, 1)}, {3: Logprob(-0.25, 1)}]
    assert tracker.output.prompt_logprobs == expected
    tracker.update(event(token_ids=[7]))
    assert tracker.output.prompt_logprobs == expected


def test_generation_logits_are_joined_at_the_end() -> None:
    tracker = make(SamplingParams(return_generation_logits=True))
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    tracker.update(event(token_ids=[1], generation_logits=rows[:1]))
    (sequence,) = tracker.snapshot().outputs
    assert sequence.generation_logits is None
    tracker.update(event(token_ids=[2], generation_logits=rows[1:], finish_reason="LENGTH"))
    (sequence,) = tracker.output.outputs
    assert sequence.generation_logits is not None
    np.testing.assert_array_equal(sequence.generation_logits, rows)


def test_finish_and_stop_reasons() -> None:
    def finish(params: SamplingParams, **changes: object) -> tuple[object, object]:
        tracker = make(params)
        tracker.update(event(is_last=True, **changes))
        (sequence,) = tracker.output.outputs
        return sequence.finish_reason, sequence.stop_reason

    plain = SamplingParams()
    assert finish(plain, finish_reason="END_ID", stop_token_id=2) == ("stop", None)
    assert finish(plain, finish_reason="STOP", stop_token_id=5) == ("stop", 5)
    assert finish(plain, finish_reason="STOP", stop_string="END") == ("stop", "END")
    assert finish(SamplingParams(end_id=5), finish_reason="STOP", stop_token_id=5) == ("stop", None)
    assert finish(plain, finish_reason="CANCELLED") == ("cancelled", None)


def test_errors_are_told() -> None:
    tracker = make(SamplingParams())
    tracker.update(
        event(finish_reason="ERROR", status="EXECUTOR_FAILED", error="no luck", is_last=True)
    )
    assert tracker.output.outputs[0].finish_reason == "error"
    assert tracker.output.outputs[0].error == "EXECUTOR_FAILED: no luck"


def test_no_text_without_detokenize() -> None:
    tracker = make(SamplingParams(detokenize=False))
    tracker.update(event(token_ids=[7], text="a"))
    assert tracker.output.outputs[0].text == ""
    assert tracker.output.outputs[0].token_ids == [7]
