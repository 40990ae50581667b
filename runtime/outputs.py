# SPDX-License-Identifier: Apache-2.0
"""What `LLM` returns, in the shape users of vLLM and TensorRT-LLM expect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Logprob(NamedTuple):
    """The natural logarithm of a token's probability before temperature and penalties."""

    logprob: float
    rank: int | None
    """1 for the likeliest; None when it is not among the `logprobs` best."""


@dataclass
class CompletionOutput:
    """One sequence of a request."""

    index: int
    """0 .. n - 1."""
    text: str = ""
    """So far; empty with `detokenize=False`."""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    """Of the tokens in `token_ids`; None unless `logprobs` was asked for."""
    logprobs: list[dict[int, Logprob]] | None = None
    """Per token: the one drawn first, then the best."""
    finish_reason: str | None = None
    """One of "stop", "length", "cancelled", "timeout", "error"; None: goes on."""
    stop_reason: int | str | None = None
    """The stop text or stop token that ended it; None for an end token."""
    generation_logits: npt.NDArray[np.float32] | None = None
    """float32 [len(token_ids), vocab_size] with `return_generation_logits`."""
    error: str | None = None
    """Why it ended with finish_reason "error"."""
    text_diff: str = ""
    """What the last update added to `text`."""
    token_ids_diff: list[int] = field(default_factory=list)
    """What the last update added to `token_ids`."""


@dataclass
class RequestMetrics:
    """Times in nanoseconds of CLOCK_MONOTONIC, None where it has not happened, and counts."""

    arrival_ns: int | None = None
    first_scheduled_ns: int | None = None
    first_token_ns: int | None = None
    """Earliest over the sequences."""
    last_token_ns: int | None = None
    """Latest over the sequences."""
    num_preemptions: int = 0
    """Of all sequences."""
    num_reused_tokens: int = 0
    """Prompt tokens taken from the prefix cache."""


@dataclass
class RequestOutput:
    """A request and what came of it so far."""

    request_id: int
    prompt: str | None
    """None when the prompt was given as token ids."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    """n sequences, in order of their index."""
    finished: bool = False
    """Whether no update follows."""
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """Per token of the prompt: the one that is there, then the best; None for the first, before
    which nothing is."""
    context_logits: npt.NDArray[np.float32] | None = None
    """float32 [num_prompt_tokens, vocab_size] with `return_context_logits`."""
    metrics: RequestMetrics = field(default_factory=RequestMetrics)
