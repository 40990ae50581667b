# SPDX-License-Identifier: Apache-2.0
"""Steps of every kind: chunks, mixed batches, splits of a context, padding, forks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.emulation import (
    EMULATED,
    SPLIT_TOKENS,
    EmulatedModel,
    FloatArray,
    emulated,
    random_tokens,
    reference_logits,
)
from tests.support.tolerances import check_logits

LONG, SHORT = random_tokens(40, seed=2), random_tokens(12, seed=3)


class Story:
    """Runs steps and keeps what each sequence was given and what came back."""

    def __init__(self, model: EmulatedModel) -> None:
        self.model = model
        self.tokens: dict[str, list[int]] = {}
        self.logits: dict[str, list[FloatArray]] = {}

    def step(self, **tokens: list[int]) -> None:
        for name, logits in self.model.step(tokens).items():
            self.tokens.setdefault(name, []).extend(tokens[name])
            self.logits.setdefault(name, []).append(logits)

    def fork(self, name: str, other: str) -> None:
        self.model.fork(name, other)
        self.tokens[other] = list(self.tokens[name])
        self.logits[other] = list(self.logits[name])


def test_a_story_of_mixed_steps(llama: Path, llama_engine: Path) -> None:
    with emulated(llama_engine) as model:
        story = Story(model)
        story.step(a=LONG[:21])
        story.step(a=LONG[21:34], b=SHORT[:3])  # two chunks of prefill
        assert len(LONG[:34]) > 2 * SPLIT_TOKENS
        story.step(a=LONG[34:35], b=SHORT[3:9])  # a decode over three splits beside a prefill
        story.step(a=LONG[35:36], b=SHORT[9:10])  # decode alone, cut and uncut
        story.fork("a", "d")
        # Decode, three tokens padded to four; d writes where a's last block was copied to.
        story.step(a=LONG[36:37], d=SHORT[:1], c=SHORT[5:6])
        story.step(d=SHORT[1:2], a=LONG[37:38])
    decided = []
    for name, tokens in story.tokens.items():
        expected = reference_logits(llama, llama_engine, tokens)
        got = np.concatenate(story.logits[name])
        decided.append(check_logits(got, expected, EMULATED["none"]))
    assert np.mean(decided) > 0.5  # of the greedy tokens, by the tolerance


def test_padding_changes_nothing(llama_engine: Path) -> None:
    prompts = {name: random_tokens(2, seed) for seed, name in enumerate("abc")}
    following = {name: random_tokens(1, seed + 9) for seed, name in enumerate("abc")}
    results = []
    for buckets in ((1, 2, 4, 6), (3,)):
        with emulated(llama_engine, "native") as model:
            model.step(prompts)
            model.executor._sizes = model.executor._sizes.with_buckets(buckets)
            results.append(model.step(following))
    for name in prompts:
        np.testing.assert_array_equal(results[0][name], results[1][name])
