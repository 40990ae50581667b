# SPDX-License-Identifier: Apache-2.0
"""Engines against transformers in float32, from the checkpoint's files to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.runtime.llm import LLM
from enginery.runtime.outputs import RequestOutput
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer
from tests.e2e.conftest import Reference
from tests.support.checkpoints import ARCHITECTURES, write_tiny_checkpoint
from tests.support.schemes import SCHEMES, build_engine
from tests.support.tolerances import (
    DEMO,
    MIN_DECIDED_SHARE,
    RANDOM_WEIGHTS,
    TENSOR_PARALLEL,
    check_logits,
)

# A prompt of 203 tokens goes through in chunks of at most 48, over 13 blocks; 12 tokens follow.
LIMITS = {"max_batch_size": 4, "max_num_tokens": 48, "tokens_per_block": 16}
PROMPT_LEN = 203
OUTPUT_LEN = 12

VARIANTS: dict[str, dict[str, Any]] = {
    **{family: {"family": family} for family in ARCHITECTURES},
    "rope linear": {"family": "llama", "rope_scaling": "linear"},
    "rope yarn": {"family": "llama", "rope_scaling": "yarn"},
    "rope yarn, qwen3": {"family": "qwen3", "rope_scaling": "yarn", "config_style": "v5"},
    "rope llama3": {"family": "llama", "rope_scaling": "llama3", "rope_theta": 500000.0},
    "sliding window": {"family": "mistral", "sliding_window": 37},
    "sliding window, qwen2": {"family": "qwen2", "sliding_window": 32},
    "sliding window not used": {
        "family": "qwen2",
        "config_overrides": {"sliding_window": 16, "use_sliding_window": False},
    },
    "head_dim of its own": {"family": "qwen3", "head_dim": 48, "num_heads": 6},
    "as many KV heads, odd sizes": {
        "family": "llama", "num_kv_heads": 4, "intermediate_size": 328, "vocab_size": 333,
    },
    "tied, bfloat16, sharded": {
        "family": "qwen2", "tie": True, "dtype": "bfloat16", "num_shards": 3,
        "config_style": "v5",
    },
    "float16": {"family": "llama", "dtype": "float16"},
}  # fmt: skip


def run(engine: Path, prompt: Sequence[int], output_len: int = OUTPUT_LEN) -> RequestOutput:
    params = SamplingParams(
        temperature=0.0,
        max_tokens=output_len,
        ignore_eos=True,
        return_context_logits=True,
        return_generation_logits=True,
    )
    with LLM(engine) as llm:
        return llm.generate(list(prompt), params)


def all_logits(output: RequestOutput) -> npt.NDArray[np.float32]:
    """Logits of every position from prefill and decode; float32 [prompt + output - 1, vocab]."""
    generated = output.outputs[0].generation_logits
    assert output.context_logits is not None
    assert generated is not None
    # The last prompt position's logits are the first token's: they come out twice.
    np.testing.assert_array_equal(output.context_logits[-1], generated[0])
    return np.concatenate([output.context_logits, generated[1:]])


def all_tokens(output: RequestOutput) -> list[int]:
    return output.prompt_token_ids + output.outputs[0].token_ids[:-1]


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    drawn: list[int] = np.random.default_rng(7).integers(320, size=PROMPT_LEN).tolist()
    return drawn


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32(variant: str, reference: Reference, prompt: list[int], tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", **VARIANTS[variant])
    output = run(build_engine(checkpoint, tmp_path / "engine", "float32", **LIMITS), prompt)
    expected = reference(checkpoint, all_tokens(output))
    check_logits(all_logits(output), expected, RANDOM_WEIGHTS["float32"])


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "float32"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_other_schemes(
    family: str, scheme: str, reference: Reference, prompt: list[int], tmp_path: Path
) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", family)
    output = run(build_engine(checkpoint, tmp_path / "engine", scheme, **LIMITS), prompt)
    expected = reference(checkpoint, all_tokens(output))
    check_logits(all_logits(output), expected, RANDOM_WEIGHTS[scheme])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_two_ranks(scheme: str, prompt: list[int], tmp_path: Path) -> None:
    # A rank's share of each width is whole groups of 128.
    checkpoint = write_tiny_checkpoint(
        tmp_path / "checkpoint", "qwen2", num_heads=8, head_dim=32, intermediate_size=256
    )
    outputs = [
        run(
            build_engine(checkpoint, tmp_path / f"tp{size}", scheme, tp_size=size, **LIMITS),
            prompt,
            output_len=1,
        )
        for size in (1, 2)
    ]
    one, two = (all_logits(output) for output in outputs)
    check_logits(two, one, TENSOR_PARALLEL[scheme])


@pytest.fixture(scope="module")
def demo_tokens(demo: Path) -> list[int]:
    """The first 512 tokens of the demo's held-out text."""
    text = (demo / "heldout.txt").read_text(encoding="utf-8")
    return Tokenizer(demo).encode(text[:4000])[:512]


@pytest.fixture(scope="module")
def demo_logits(
    demo: Path, demo_tokens: list[int], reference: Reference
) -> npt.NDArray[np.float32]:
    return reference(demo, demo_tokens)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_demo(
    scheme: str,
    demo: Path,
    demo_tokens: list[int],
    demo_logits: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    engine = build_engine(demo, tmp_path / "engine", scheme, **LIMITS)
    got = run(engine, demo_tokens, output_len=1).context_logits
    assert got is not None
    decided = check_logits(got, demo_logits, DEMO[scheme])
    if scheme == "float32":
        assert decided >= MIN_DECIDED_SHARE


def test_prompt_text_becomes_the_same_tokens(demo: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    engine = build_engine(demo, tmp_path / "engine", "int8_dynamic", **LIMITS)
    theirs, ours = AutoTokenizer.from_pretrained(demo), Tokenizer(engine)
    text = "It was the best of times — naïve, ‘quoted’ 2 Sam 1:2\n\n  and  spaces 火🚂"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode(text, add_special_tokens=False) == theirs.encode(
        text, add_special_tokens=False
    )
    messages = [{"role": "user", "content": "Who art thou?"}]
    assert ours.apply_chat_template(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
