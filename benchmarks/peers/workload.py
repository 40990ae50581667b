# SPDX-License-Identifier: Apache-2.0
"""The work that every peer is given: token ids, drawn once from a fixed seed."""

from __future__ import annotations

from typing import Any

import numpy as np

SEED = 20261127
MAX_SEQ_LEN = 1024
MAX_IN_FLIGHT = 16
NUM_LOAD_REQUESTS = 32
FIRST_TOKEN_ID = 256  # Bytes lie below, special tokens at the end of the vocabulary.
NUM_SPECIAL_TOKENS = 16


def make_workload(vocab_size: int, round_index: int, *, quick: bool = False) -> dict[str, Any]:
    """The requests of one round, as a driver's task names them.

    Prefill and decode begin with one request more, which warms up. Rounds differ in their tokens
    and not in their lengths.

    Args:
        vocab_size: token ids are drawn below it.
        round_index: 0 or more.
        quick: a fraction of the work, to see that everything answers.
    """
    tokens = np.random.default_rng([SEED, round_index])
    lengths = np.random.default_rng(SEED)

    def requests(count: int, num_prompt_tokens: int, outputs: list[int]) -> list[dict[str, Any]]:
        drawn = tokens.integers(
            FIRST_TOKEN_ID, vocab_size - NUM_SPECIAL_TOKENS, (count, num_prompt_tokens)
        )
        return [
            {"prompt": prompt, "num_tokens": num_tokens}
            for prompt, num_tokens in zip(drawn.tolist(), outputs, strict=True)
        ]

    outputs = lengths.integers(16, 128, NUM_LOAD_REQUESTS, endpoint=True).tolist()
    num_prompts, num_decoded = 6, [128] * 4
    if quick:
        outputs = [num_tokens // 8 for num_tokens in outputs[:20]]
        num_prompts, num_decoded = 2, [16] * 2
    return {
        "max_seq_len": MAX_SEQ_LEN,
        "max_in_flight": MAX_IN_FLIGHT,
        "first_token": requests(1, 16, [1])[0],
        "prefill": requests(num_prompts, 512, [1] * num_prompts),
        "decode": requests(len(num_decoded), 16, num_decoded),
        "load": requests(len(outputs), 128, outputs),
    }
