# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.tokenizer import Tokenizer
from enginery.triton_backend.trtllm.postprocessing import Postprocessor
from enginery.triton_backend.trtllm.token_text import TokenBytes
from tests.support.tokenizer import BOS_TOKEN_ID, EOS_TOKEN_ID


@pytest.fixture
def run(engine: Engine, token_bytes: TokenBytes) -> Any:
    def postprocess(tokens: Any, lengths: Any, skips: bool = True) -> Any:
        tokenizer = Tokenizer(engine.path)
        postprocessor = Postprocessor(token_bytes, BOS_TOKEN_ID, tokenizer, skips)
        arrays = {
            "TOKENS_BATCH": np.array(tokens, np.int32),
            "SEQUENCE_LENGTH": np.array(lengths, np.int32),
        }
        return postprocessor.tensors(arrays)["OUTPUT"].tolist()

    return postprocess


def test_texts(run: Any) -> None:
    assert run([[[97, 98, 99]]], [[2]]) == [b"ab"]
    assert run([[[BOS_TOKEN_ID, 97, 0xC3, 0xA9, EOS_TOKEN_ID]]], [[5]]) == ["aé".encode()]
    assert run([[[97, 0xC3]]], [[2]]) == ["a\ufffd".encode()]


def test_rows_and_beams_come_flat(run: Any) -> None:
    tokens = [[[97, 98], [99, -1]], [[100, 101], [102, 103]]]
    assert run(tokens, [[2, 1], [1, 0]]) == [b"ab", b"c", b"d", b""]


def test_nothing(run: Any) -> None:
    assert run(np.empty((1, 1, 0)), [[0]]) == [b""]


def test_special_tokens_can_be_shown(run: Any) -> None:
    tokens = [[[97, EOS_TOKEN_ID]]]
    assert run(tokens, [[2]], skips=False) == [b"a<|end_of_text|>"]


@pytest.mark.parametrize(
    ("tokens", "lengths", "reason"),
    [
        ([[[97]]], [[2]], "SEQUENCE_LENGTH: 2: must be 0 .. 1"),
        ([[[97]]], [[-1]], "SEQUENCE_LENGTH: -1: must be 0 .. 1"),
        ([[[97]]], [[1, 1]], "SEQUENCE_LENGTH: has shape [1, 2]"),
        ([[[-1]]], [[1]], "token id -1: the vocabulary has"),
    ],
)
def test_refused(tokens: Any, lengths: Any, reason: str, run: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        run(tokens, lengths)
    assert reason in str(raised.value)


def test_space_that_a_tokenizer_writes_before_a_text(
    tmp_path: Path, token_bytes: TokenBytes
) -> None:
    """SentencePiece's way: "a" as the beginning of a text and " a" within one are one token."""
    special = {"id": BOS_TOKEN_ID, "content": "<s>", "special": True, "normalized": False}
    special |= {"single_word": False, "lstrip": False, "rstrip": False}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
    model = {"type": "WordLevel", "unk_token": "▁a", "vocab": {"▁a": 97, "▁b": 98}}
    tokenizer = {"added_tokens": [special], "decoder": metaspace, "model": model}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", **tokenizer}))
    postprocessor = Postprocessor(token_bytes, BOS_TOKEN_ID, Tokenizer(tmp_path), True)
    tokens = np.array([[[BOS_TOKEN_ID, 97, 98]]], np.int32)
    arrays = {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.array([[3]], np.int32)}
    assert postprocessor.tensors(arrays)["OUTPUT"].tolist() == [b"a b"]
