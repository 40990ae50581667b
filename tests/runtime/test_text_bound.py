# SPDX-License-Identifier: Apache-2.0
"""A text never has fewer tokens than its bytes foretell, whatever the tokenizer does to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from enginery.runtime.errors import TextTooLongError
from enginery.runtime.text_bound import TextBound
from enginery.runtime.tokenizer import Tokenizer
from tests.support.tokenizer import byte_letters, write_tiny_tokenizer

BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}
LETTERS = {letter: 256 + index for index, letter in enumerate("the▁中가K")}
MERGED = {**LETTERS, "th": 263, "the": 264}
MERGES = [("t", "h"), ("th", "e")]
SPACE_IS_A_LETTER = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def byte_level(normalizer: normalizers.Normalizer | None = None) -> Library:
    vocabulary = {letter: index for index, letter in enumerate(byte_letters())}
    merged = {"th": 256, "the": 257}
    made = Library(models.BPE(vocabulary | merged, MERGES))
    if normalizer is not None:
        made.normalizer = normalizer
    split = pre_tokenizers.Split(Regex(r"\s+|\S+"), "isolated")
    parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(parts)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return made


def with_fallback(normalizer: normalizers.Normalizer = SPACE_IS_A_LETTER) -> Library:
    model = models.BPE({**BYTES, **MERGED}, MERGES, byte_fallback=True, fuse_unk=True)
    made = Library(model)
    made.normalizer = normalizer
    return made


BOUNDED = {
    "byte level": byte_level(),
    **{
        kind.__name__: byte_level(kind())
        for kind in (
            normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD,
            normalizers.Lowercase,
        )
    },
    "byte fallback": with_fallback(),
    "byte fallback, NFKC": with_fallback(
        normalizers.Sequence([normalizers.NFKC(), SPACE_IS_A_LETTER])
    ),
}  # fmt: skip
TEXTS = {
    "longest tokens": "the" * 400,
    "special tokens": "<|end|>" * 300,
    "spaces": " " * 1000,
    "signs of Kelvin": "\N{KELVIN SIGN}" * 500,
    "letters of Hangul": "\u1112\u1161\u11ab" * 400,
    "mathematical letters": "\N{MATHEMATICAL BOLD CAPITAL A}" * 500,
    "combining": "α\u0313\u0300\u0345" * 300,
    "unknown": "火車🚂\x00\x7f" * 200,
    "one": "t",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_fewer(name: str, text: str) -> None:
    least = TextBound(BOUNDED[name]).min_tokens(text, len(text.encode()))
    assert 0 < least <= len(BOUNDED[name].encode(text).ids)


def test_the_bound_is_met() -> None:
    tokenizer = byte_level()
    text = "<|end|>" * 300
    assert TextBound(tokenizer).min_tokens(text, len(text)) == len(tokenizer.encode(text).ids)


def unbounded() -> dict[str, tuple[Library, str]]:
    """Tokenizers that leave out parts of a text, with one of a few tokens."""
    stripping = byte_level()
    stripping.add_special_tokens([AddedToken("<|user|>", rstrip=True, normalized=False)])
    splitting = byte_level()
    splitting.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    removing = byte_level()
    removing.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    lossy = Library(models.BPE({"a": 0}, []))
    fused = Library(models.BPE({"a": 0, "?": 1}, [], unk_token="?", fuse_unk=True))
    words = Library(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    return {
        "stripping token": (stripping, "<|user|>" + " " * 10_000),
        "Strip": (byte_level(normalizers.Strip()), " " * 10_000 + "a"),
        "Replace": (byte_level(normalizers.Replace(Regex(" +"), " ")), " " * 10_000),
        "WhitespaceSplit": (splitting, "a" + " " * 10_000),
        "Removed": (removing, "a" + " " * 10_000),
        "no unknown token": (lossy, "b" * 10_000),
        "fused unknown token": (fused, "b" * 10_000),
        "words": (words, "b" * 10_000),
    }


@pytest.mark.parametrize("name", unbounded())
def test_where_nothing_is_certain_nothing_is_said(name: str) -> None:
    tokenizer, text = unbounded()[name]
    assert len(tokenizer.encode(text).ids) < 10
    assert TextBound(tokenizer).min_tokens(text, len(text)) == 0


def test_a_stripping_token_is_no_excuse_where_it_is_not_there() -> None:
    tokenizer, _ = unbounded()["stripping token"]
    assert TextBound(tokenizer).min_tokens("the" * 100, 300) == 300 // len("<|user|>") + 1


def test_texts_that_cannot_fit_are_refused_before_they_are_encoded(tmp_path: Path) -> None:
    write_tiny_tokenizer(tmp_path, adds_bos=True)
    tokenizer = Tokenizer(tmp_path, max_input_len=100)
    longest = len("<|begin_of_text|>")
    assert len(tokenizer.encode("<|begin_of_text|>" * 100)) == 101  # told by who knows the tokens
    text = "x" * 50_000_000
    with pytest.raises(TextTooLongError) as refused:
        tokenizer.encode(text, name="text_input")
    least = -(-len(text) // longest)
    assert str(refused.value) == (
        f"text_input: has 50000000 bytes, so at least {least} tokens; at most 100 (max_input_len)"
    )
