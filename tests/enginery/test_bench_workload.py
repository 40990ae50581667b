# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from enginery.bench.errors import BenchError
from enginery.bench.workload import (
    BenchRequest,
    Span,
    arrival_times,
    random_requests,
    read_dataset,
)


@pytest.mark.parametrize(("text", "expected"), [("7", (7, 7)), ("16-128", (16, 128))])
def test_span(text: str, expected: tuple[int, int]) -> None:
    span = Span.parse(text)
    assert (span.low, span.high) == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "8-4", "a-b", "1-2-3", "4.5"])
def test_span_refuses(text: str) -> None:
    with pytest.raises(BenchError, match="length"):
        Span.parse(text)


def test_span_reaches_both_ends() -> None:
    drawn = Span(3, 5).draw(1000, np.random.default_rng(0))
    assert set(drawn.tolist()) == {3, 4, 5}


def test_random_requests() -> None:
    def make(seed: int) -> list[BenchRequest]:
        rng = np.random.default_rng(seed)
        return random_requests(50, Span(4, 9), Span(1, 3), 111, rng, shared_prefix_len=2)

    requests = make(5)
    assert {len(request.prompt_token_ids) for request in requests} == {4, 5, 6, 7, 8, 9}
    assert {request.output_tokens for request in requests} == {1, 2, 3}
    assert len({tuple(request.prompt_token_ids[:2]) for request in requests}) == 1
    assert len({tuple(request.prompt_token_ids) for request in requests}) == 50
    assert all(0 <= token < 111 for request in requests for token in request.prompt_token_ids)
    assert make(5) == requests
    assert make(6) != requests


def test_shared_prefix_must_fit() -> None:
    with pytest.raises(BenchError, match="shared_prefix_len"):
        random_requests(
            1, Span(4, 9), Span(1, 1), 10, np.random.default_rng(0), shared_prefix_len=5
        )


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 8.0])
def test_arrivals_last_exactly_as_long_as_the_rate_says(burstiness: float) -> None:
    times = arrival_times(4000, 20.0, burstiness, np.random.default_rng(1))
    assert times[-1] == pytest.approx(4000 / 20.0)
    assert (np.diff(times) >= 0).all()
    # A gamma distribution of shape k has a coefficient of variation of 1 / sqrt(k).
    gaps = np.diff(times, prepend=0.0)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.1)


def test_infinite_rate_is_all_at_once() -> None:
    assert arrival_times(3, math.inf, 1.0, np.random.default_rng(0)).tolist() == [0, 0, 0]
    assert arrival_times(0, 5.0, 1.0, np.random.default_rng(0)).size == 0


def test_dataset(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    lines = [
        {"task_id": 0, "prompt": "ab", "output_tokens": 5},
        {"task_id": 1, "input_ids": [4, 5, 6]},
    ]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read_dataset(path, lambda text: [ord(letter) for letter in text], 9) == [
        BenchRequest([97, 98], 5),
        BenchRequest([4, 5, 6], 9),
    ]


def test_dataset_lists_every_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(
        '{"prompt": "a", "output_tokens": 0}\n{"input_ids": [1.5]}\n{"prompt": "fine"}\nno json\n'
        "[]\n"
    )
    with pytest.raises(BenchError) as caught:
        read_dataset(path, lambda text: [1], 9)
    for number in (1, 2, 4, 5):
        assert f"line {number}:" in str(caught.value)
    assert "line 3:" not in str(caught.value)


def test_empty_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n")
    with pytest.raises(BenchError, match="no requests"):
        read_dataset(path, lambda text: [1], 9)
