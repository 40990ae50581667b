# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.plugins.kernels import reference_sample, spec
from enginery.runtime.batch import SAMPLE_DTYPE, SAMPLE_GREEDY, SAMPLE_HOST_ONLY

torch = pytest.importorskip("torch")

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "philox.txt"
BLOCK = 64
Records = npt.NDArray[np.void]


def records(count: int, **fields: Any) -> Records:
    """`count` records that differ in seed, index and position, over logits row 0."""
    out = np.zeros(count, SAMPLE_DTYPE)
    rng = np.random.default_rng(7)
    out["temperature"], out["top_p"] = 1.0, 1.0
    out["seed"] = rng.integers(0, 2**64, count, np.uint64)
    out["sequence_index"] = rng.integers(0, 2**32, count, np.uint32)
    out["position"] = rng.integers(0, 2**32, count, np.uint32)
    for name, value in fields.items():
        out[name] = value
    return out


def run(
    logits: npt.NDArray[np.float32], samples: Records, with_scratch: bool = True
) -> npt.NDArray[np.int32]:
    tokens = torch.full((len(samples),), -7, dtype=torch.int32)
    words = torch.from_numpy(samples.view(np.int32).reshape(len(samples), 10).copy())
    scratch = torch.full((len(samples), 2, BLOCK), float("nan")) if with_scratch else None
    spec.load("sample")[(len(samples),)](
        torch.from_numpy(logits), words, tokens, scratch, VOCAB=logits.shape[1], BLOCK=BLOCK
    )
    result: npt.NDArray[np.int32] = tokens.numpy()
    return result


def golden() -> list[list[int]]:
    lines = GOLDEN.read_text().splitlines()
    return [[int(w, 16) for w in line.split()] for line in lines if line[:1] not in ("#", "")]


def test_reference_has_the_golden_random_numbers() -> None:
    for words in golden():
        assert reference_sample.philox4x32(words[:4], words[4:6]) == words[6:]


def test_kernel_has_the_golden_random_numbers() -> None:
    # Equal logits at temperature 1: the token is floor(u * vocab), to 8 bits of u.
    vocab = 256
    cases = [words for words in golden() if words[2] == words[3] == 0]
    samples = records(len(cases))
    for record, words in zip(samples, cases, strict=True):
        record["position"], record["sequence_index"] = words[0], words[1]
        record["seed"] = words[5] << 32 | words[4]
    tokens = run(np.zeros((1, vocab), np.float32), samples)
    assert tokens.tolist() == [words[6] >> 24 for words in cases]


@pytest.mark.parametrize("vocab", [1, 150])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 3.0},
        {"top_k": 3},
        {"top_k": 40, "temperature": 2.0},
        {"top_p": 0.9},
        {"top_p": 0.05},
        {"min_p": 0.2},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.1, "temperature": 1.7},
    ],
)
@pytest.mark.parametrize("with_scratch", [True, False])
def test_draws(vocab: int, fields: dict[str, Any], with_scratch: bool) -> None:
    logits = np.random.default_rng(vocab).standard_normal((1, vocab), np.float32) * 2
    samples = records(2 if with_scratch else 1, **fields)
    expected = reference_sample.sample(logits, samples)
    assert np.array_equal(run(logits, samples, with_scratch), expected)


@pytest.mark.parametrize("with_scratch", [True, False])
@pytest.mark.parametrize(
    "fields", [{"top_k": 5}, {"top_p": 0.3}, {"top_k": 30, "top_p": 0.5}, {"top_k": 100}]
)
def test_of_equal_logits_the_lowest_ids_are_kept(
    fields: dict[str, Any], with_scratch: bool
) -> None:
    rng = np.random.default_rng(11)
    logits = rng.integers(0, 3, (1, 150)).astype(np.float32)
    samples = records(2 if with_scratch else 1, **fields)
    expected = reference_sample.sample(logits, samples)
    assert np.array_equal(run(logits, samples, with_scratch), expected)


def test_every_token_is_drawn_as_often_as_it_weighs() -> None:
    """Of the reference, which the kernel equals."""
    logits = np.log(np.array([[0.5, 0.3, 0.2, 0.0]], np.float32) + np.float32(1e-30))
    count = 5000
    drawn = np.bincount(reference_sample.sample(logits, records(count)), minlength=4) / count
    assert np.abs(drawn - [0.5, 0.3, 0.2, 0]).max() < 0.03


def test_argmax_is_the_lowest_id_of_the_largest() -> None:
    logits = np.zeros((1, 200), np.float32)
    logits[0, [77, 140, 199]] = 4
    samples = records(3, temperature=[0, 1, 1], top_k=[0, 1, 0], flags=[0, 0, SAMPLE_GREEDY])
    assert run(logits, samples).tolist() == [77, 77, 77]


def test_rows_without_a_token() -> None:
    logits = np.zeros((5, 100), np.float32)
    logits[1, 99] = np.nan
    logits[2, 3] = np.inf
    logits[3] = -np.inf
    logits[4, :99] = -np.inf
    samples = records(6, logit_row=[0, 1, 2, 3, 4, 4], flags=[SAMPLE_HOST_ONLY, 0, 0, 0, 0, 0])
    samples["top_p"][5] = 0.5
    assert run(logits, samples).tolist() == [-1, -1, -1, -1, 99, 99]
