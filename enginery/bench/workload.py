# SPDX-License-Identifier: Apache-2.0
"""What is asked of the engine and when: prompts, output lengths, arrival times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.bench.errors import BenchError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Span:
    """Lengths from `low` to `high`, both included, all equally likely."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Span:
        """Reads "128" or "16-128"; raises BenchError for anything else."""
        low, dash, high = text.partition("-")
        try:
            span = cls(int(low), int(high if dash else low))
        except ValueError:
            raise BenchError(
                f"length {text!r}: must be a number or a range such as 16-128"
            ) from None
        if not 1 <= span.low <= span.high:
            raise BenchError(f"length {text!r}: must be 1 or more, the smaller end first")
        return span

    def draw(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """`count` lengths, int64 [count]."""
        return rng.integers(self.low, self.high, size=count, dtype=np.int64, endpoint=True)


@dataclass(frozen=True)
class BenchRequest:
    """One request of a workload."""

    prompt_token_ids: list[int]
    output_tokens: int
    """Exactly so many are generated: end tokens are ignored."""


def random_requests(
    count: int,
    input_len: Span,
    output_len: Span,
    vocab_size: int,
    rng: np.random.Generator,
    *,
    shared_prefix_len: int = 0,
) -> list[BenchRequest]:
    """Requests of random token ids.

    Args:
        count: how many.
        input_len: lengths of the prompts.
        output_len: lengths of the outputs.
        vocab_size: token ids are drawn below it.
        rng: the same state gives the same workload.
        shared_prefix_len: so many first tokens are equal in all prompts; at most `input_len.low`.

    Raises:
        BenchError: the shared prefix is longer than the shortest prompt.
    """
    if shared_prefix_len > input_len.low:
        raise BenchError(
            f"shared_prefix_len {shared_prefix_len}: the shortest prompt has {input_len.low} tokens"
        )
    prefix = rng.integers(vocab_size, size=shared_prefix_len).tolist()
    inputs, outputs = input_len.draw(count, rng), output_len.draw(count, rng)
    return [
        BenchRequest(
            prefix + rng.integers(vocab_size, size=length - shared_prefix_len).tolist(), output
        )
        for length, output in zip(inputs.tolist(), outputs.tolist(), strict=True)
    ]


def read_dataset(
    path: Path, encode: Callable[[str], list[int]], default_output_tokens: int
) -> list[BenchRequest]:
    """Reads requests from JSON lines.

    A line is `{"prompt": "..."}` or `{"input_ids": [...]}`, with `"output_tokens": n` or without;
    other keys are not looked at.

    Args:
        path: the file.
        encode: a prompt's token ids.
        default_output_tokens: for lines that do not say.

    Raises:
        BenchError: lists every line that is not such an object.
    """
    requests, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            requests.append(_dataset_request(json.loads(line), encode, default_output_tokens))
        except ValueError as error:
            problems.append(f"  line {number}: {error}")
    if problems:
        raise BenchError("\n".join([f"dataset {path}:", *problems]))
    if not requests:
        raise BenchError(f"dataset {path}: has no requests")
    return requests


def _dataset_request(
    entry: Any, encode: Callable[[str], list[int]], default_output_tokens: int
) -> BenchRequest:
    if not isinstance(entry, dict):
        raise BenchError("is not an object")
    output_tokens = entry.get("output_tokens", default_output_tokens)
    if isinstance(output_tokens, bool) or not isinstance(output_tokens, int) or output_tokens < 1:
        raise BenchError(f"output_tokens = {output_tokens!r}: must be an integer >= 1")
    if isinstance(entry.get("prompt"), str):
        return BenchRequest(encode(entry["prompt"]), output_tokens)
    token_ids = entry.get("input_ids")
    if isinstance(token_ids, list) and token_ids and all(type(t) is int for t in token_ids):
        return BenchRequest(token_ids, output_tokens)
    raise BenchError('has neither "prompt", a text, nor "input_ids", a list of integers')


def arrival_times(
    count: int, request_rate: float, burstiness: float, rng: np.random.Generator
) -> FloatArray:
    """When requests arrive, in seconds from the start; float64 [count], ascending.

    Intervals are drawn from a gamma distribution of shape `burstiness` and mean 1 / request_rate:
    1 is a Poisson process, below 1 comes in bursts, above 1 is more even. They are then scaled so
    that the last request arrives at exactly count / request_rate: the rate is the one asked for,
    and not one that luck made.

    Args:
        count: how many.
        request_rate: per second; infinity: all arrive at 0.
        burstiness: > 0.
        rng: the same state gives the same times.
    """
    if math.isinf(request_rate) or count == 0:
        return np.zeros(count)
    times = np.cumsum(rng.gamma(burstiness, 1.0 / (request_rate * burstiness), size=count))
    scaled: FloatArray = times * (count / request_rate / times[-1])
    return scaled
