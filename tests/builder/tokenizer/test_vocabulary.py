# SPDX-License-Identifier: Apache-2.0
"""Token bytes against what the tokenizers library decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from enginery.builder.errors import TokenizerError
from enginery.builder.tokenizer.vocabulary import read_vocabulary
from tests.support.checkpoints import write_tiny_checkpoint

TEXTS = [
    "Hello world, this is a test.",
    "naïve café — “quotes”, ελληνικά, 日本語, 🦙🦙",
    "tabs\tand\nnewlines\r\n  and   runs of spaces ",
    "\x00\x7f\u00ad\u2581 marks",
]


def byte_level_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def sentencepiece_tokenizer(decoder: decoders.Decoder) -> Tokenizer:
    """As Llama 2's: U+2581 for spaces, bytes of rare characters as `<0xNN>`."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁H", "e", "l", "o", "w", "r", "d", "ll", "▁▁", "é"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[("l", "l"), ("▁", "▁")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


LLAMA2_DECODER = decoders.Sequence(
    [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
)


def test_byte_level_texts_come_back(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = read_vocabulary(tmp_path, tokenizer.get_vocab_size() + 7)
    assert len(tokens) == tokenizer.get_vocab_size() + 7
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        joined = b"".join(tokens[token_id].text for token_id in ids)
        assert joined.decode() == text == tokenizer.decode(ids)
    assert any(len(token.text) > 3 for token in tokens)  # merges, not single bytes alone


@pytest.mark.parametrize(
    "decoder", [LLAMA2_DECODER, decoders.Metaspace()], ids=["llama2", "metaspace"]
)
def test_sentencepiece_tokens_come_back(tmp_path: Path, decoder: decoders.Decoder) -> None:
    tokenizer = sentencepiece_tokenizer(decoder)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokens = read_vocabulary(tmp_path, tokenizer.get_vocab_size())
    vocab = tokenizer.get_vocab()
    ids = [vocab[piece] for piece in ("▁H", "e", "ll", "o", "▁▁", "w", "o", "r", "l", "d", "é")]
    joined = b"".join(tokens[token_id].text for token_id in ids).decode()
    assert joined == " Hello  worldé"
    assert tokenizer.decode(ids) == joined[1:]  # decoders drop the space before the first word
    llama = [vocab[f"<0x{byte:02X}>"] for byte in "🦙".encode()]
    assert b"".join(tokens[token_id].text for token_id in llama).decode() == "🦙"
    assert [tokens[vocab[name]].is_special for name in ("<unk>", "<s>", "e")] == [True, True, False]


def test_every_byte_has_a_token(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, "llama")
    tokens = read_vocabulary(tmp_path, 400)
    assert sorted(token.text for token in tokens[:256]) == [bytes([byte]) for byte in range(256)]
    assert tokens[314].is_special and tokens[314].text == b"<|begin_of_text|>"
    assert all(token.is_unused and not token.text for token in tokens[320:])
    assert len(tokens) == 400


def test_added_tokens_are_their_own_text_and_may_stand_beyond_the_vocabulary(
    tmp_path: Path,
) -> None:
    tokenizer = byte_level_tokenizer()
    first = tokenizer.get_vocab_size()
    tokenizer.add_tokens([AddedToken("<tool call>"), AddedToken("é!", normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    added = read_vocabulary(tmp_path, 1)[first:]
    assert [token.text.decode() for token in added] == ["<tool call>", "é!", "<end>"]
    assert [token.is_special for token in added] == [False, False, True]


def edited(tmp_path: Path, **changes: Any) -> Path:
    write_tiny_checkpoint(tmp_path, "llama")
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return tmp_path


def bpe(**changes: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": {"a": 0}, "merges": []} | changes


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unigram": ({"model": {"type": "Unigram", "vocab": []}}, "model.type: 'Unigram' is not"),
    "wordpiece": ({"model": {"type": "WordPiece"}}, "'WordPiece' is not supported; 'BPE' is"),
    "no_model": ({"model": None}, "model: is not an object"),
    "no_vocab": ({"model": bpe(vocab=[])}, "model.vocab: is not an object"),
    "two_tokens_one_id": ({"model": bpe(vocab={"a": 1, "b": 1})}, "two tokens have the id 1"),
    "negative_id": ({"model": bpe(vocab={"a": -1})}, "-1 is not a token id"),
    "huge_id": ({"model": bpe(vocab={"a": 1 << 40})}, "1099511627776 is not a token id"),
    "text_id": ({"model": bpe(vocab={"a": "0"})}, "'0' is not a token id"),
    "boolean_id": ({"model": bpe(vocab={"a": True})}, "True is not a token id"),
    "no_decoder": ({"decoder": None}, "decoder: None is not supported"),
    "ctc_decoder": ({"decoder": {"type": "CTC"}}, "decoder: CTC is not supported"),
    "other_replace": (
        {"decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "_"}, "content": " "}]}},
        "replaces something else",
    ),
    "mixed_decoder": (
        {"decoder": {"type": "Sequence", "decoders": [
            {"type": "ByteLevel"}, {"type": "Metaspace"}]}},
        r"ByteLevel \+ Metaspace is not supported",
    ),
    "decoder_is_no_object": ({"decoder": ["ByteLevel"]}, "is not supported"),
    "added_tokens": ({"added_tokens": {"a": 1}}, "added_tokens: is not a list"),
    "added_token": ({"added_tokens": [{"id": 1}]}, r"added_tokens\[0\]: is not an object with"),
    "added_token_id": ({"added_tokens": [{"content": "a"}]}, r"added_tokens\[0\].id: None is not"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_tokenizers_that_cannot_be_taken(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(TokenizerError, match=message):
        read_vocabulary(edited(tmp_path, **changes), 320)


def test_a_missing_tokenizer_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"is missing \(give --skip_tokenizer"):
        read_vocabulary(tmp_path, 320)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(TokenizerError, match=r"tokenizer\.model alone is not read"):
        read_vocabulary(tmp_path, 320)


def test_half_a_surrogate_pair_does_not_stop_the_build(tmp_path: Path) -> None:
    path = edited(tmp_path) / "tokenizer.json"
    path.write_text(
        '{"decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": {"\\ud800": 0}}}'
    )
    assert read_vocabulary(tmp_path, 1)[0].text == b"?"
