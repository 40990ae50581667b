# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random

import pytest

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.tokenizer import Tokenizer
from enginery.triton_backend.trtllm.token_text import CharacterGate, TokenBytes
from tests.support.tokenizer import BOS_TOKEN_ID, EOS_TOKEN_ID


def test_texts_are_those_of_the_tokenizer(engine: Engine, token_bytes: TokenBytes) -> None:
    tokenizer = Tokenizer(engine.path)
    text = "And the café said: \U0001f600, 中文"
    ids = tokenizer.encode(text)
    assert ids[0] == BOS_TOKEN_ID
    assert token_bytes.text(ids) == text
    assert token_bytes.text(ids, skip_special_tokens=False) == f"<|begin_of_text|>{text}"


def test_tokens(token_bytes: TokenBytes) -> None:
    assert token_bytes.of(ord("a")) == b"a"
    assert token_bytes.of(0xE9) == b"\xe9"
    assert token_bytes.is_special(EOS_TOKEN_ID)
    assert not token_bytes.is_special(ord("a"))
    assert token_bytes.shown(EOS_TOKEN_ID) == b""
    assert token_bytes.text([ord("a"), 0xC3]) == "a\ufffd"


@pytest.mark.parametrize("token_id", [-1, 1 << 20])
def test_token_outside_the_vocabulary(token_id: int, token_bytes: TokenBytes) -> None:
    with pytest.raises(InvalidArgumentError, match=f"token id {token_id}: the vocabulary has"):
        token_bytes.text([1, token_id])


def gate() -> CharacterGate[bytes]:
    return CharacterGate(lambda data: data)


def pieces(tokens: list[bytes]) -> list[bytes]:
    """What the gate lets go at a time, each put together."""
    used = gate()
    released = [used.put([token]) for token in tokens]
    released.append(used.flush())
    assert [token for group in released for token in group] == tokens
    return [b"".join(group) for group in released if group]


def test_whole_characters_go_at_once() -> None:
    assert pieces([b"a", b" the", "é".encode()]) == [b"a", b" the", "é".encode()]


def test_character_of_several_tokens() -> None:
    smile = "\U0001f600".encode()
    parts = [smile[i : i + 1] for i in range(4)]
    assert pieces([b"a", *parts, b"b"]) == [b"a", smile, b"b"]


def test_tokens_that_end_in_the_middle() -> None:
    first, second = "é".encode(), "中".encode()
    tokens = [b"x" + first[:1], first[1:] + second[:2], second[2:]]
    assert pieces(tokens) == [b"x" + first + second]


def test_token_without_bytes_within_a_character() -> None:
    assert pieces([b"\xc3", b"", b"\xa9"]) == ["é".encode()]


@pytest.mark.parametrize("broken", [b"\xe2", b"\xe2\x82", b"\xf0\x9f", b"\xc3"])
def test_what_is_not_continued_is_not_waited_for(broken: bytes) -> None:
    assert pieces([broken, b"a", b"b"]) == [broken + b"a", b"b"]


@pytest.mark.parametrize("byte", [b"\x80", b"\xc0", b"\xc1", b"\xf5", b"\xff"])
def test_bytes_that_begin_no_character(byte: bytes) -> None:
    assert pieces([byte, byte]) == [byte, byte]


def test_one_lead_after_the_other_is_not_held_for_ever() -> None:
    assert pieces([b"\xe2"] * 5) == [b"\xe2"] * 5


def test_the_end_lets_everything_go() -> None:
    assert pieces([b"a", b"\xe4\xb8"]) == [b"a", b"\xe4\xb8"]


def test_random_cuts_give_the_same_text() -> None:
    draw = random.Random(8)
    alphabet = ["a", " ", "é", "中", "\U0001f600"]
    noise = [b"\x80", b"\xe2", b"\xf0\x9f", b"\xff"]
    for _ in range(300):
        data = b"".join(
            draw.choice(noise) if draw.random() < 0.1 else draw.choice(alphabet).encode()
            for _ in range(draw.randint(1, 20))
        )
        tokens = []
        while data:
            size = draw.randint(1, 4)
            tokens.append(data[:size])
            data = data[size:]
        text = b"".join(tokens).decode("utf-8", "replace")
        assert "".join(piece.decode("utf-8", "replace") for piece in pieces(tokens)) == text
