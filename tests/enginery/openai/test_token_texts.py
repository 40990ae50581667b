# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from enginery.openai.token_texts import Offsets
from tests.support.openai import token_texts
from tests.support.tokenizer import BOS_TOKEN_ID


@pytest.mark.parametrize(
    ("token_ids", "text", "offsets"),
    [
        ([*b"abc"], "abc", [0, 1, 2]),
        ([*"a\u00e9b".encode()], "a\u00e9b", [0, 1, 1, 2]),
        ([*"\u20acx".encode()], "\u20acx", [0, 0, 0, 1]),
        ([0xC3, ord("c")], "\ufffdc", [0, 1]),
        ([0xE2, 0x82, ord("c"), ord("d")], "\ufffdcd", [0, 0, 1, 2]),
        ([ord("a"), BOS_TOKEN_ID, ord("b")], "ab", [0, 1, 1]),
    ],
)
def test_offsets_are_where_tokens_begin(
    token_ids: list[int], text: str, offsets: list[int]
) -> None:
    texts = token_texts()
    assert texts.decode(token_ids) == text
    whole, parts = Offsets(texts), Offsets(texts)
    assert whole.next(token_ids) == offsets
    assert [offset for token_id in token_ids for offset in parts.next([token_id])] == offsets


def test_tokens_are_told_apart() -> None:
    texts = token_texts()
    assert texts.text_of(ord("a")) == "a"
    assert texts.text_of(0xC3) == "bytes:\\xc3"
    assert texts.text_of(BOS_TOKEN_ID) == "<|begin_of_text|>"
    assert texts.shown_bytes_of(BOS_TOKEN_ID) == b""
