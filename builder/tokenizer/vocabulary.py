# SPDX-License-Identifier: Apache-2.0
"""The bytes that each token id adds to the text, read from `tokenizer.json`.

Two kinds of vocabulary are understood. *Byte-level* BPE (GPT-2, Llama 3, Qwen) writes each byte as
one printable character. *SentencePiece-like* BPE (Llama 2, Mistral) writes a space as U+2581 and a
byte that has no character of its own as `<0xNN>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.builder.checkpoint.fields import read_json_object
from enginery.builder.errors import Problem, TokenizerError

TOKENIZER_FILE = "tokenizer.json"
MAX_TOKENIZER_BYTES = 256 << 20
MAX_TOKENS = 1 << 22
SPACE_MARK = "\u2581"
BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")

# Decoders of tokenizers that come to one of the two kinds.
BYTE_LEVEL_DECODERS = {"ByteLevel"}
SENTENCEPIECE_DECODERS = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}


@dataclass(frozen=True)
class TokenText:
    """What one token id adds.

    Attributes:
        text: bytes, not always whole characters.
        is_special: a control token, shown only when asked for.
        is_unused: no token has this id.
    """

    text: bytes
    is_special: bool = False
    is_unused: bool = False


UNUSED = TokenText(b"", is_unused=True)


def read_vocabulary(directory: Path, vocab_size: int) -> list[TokenText]:
    """Reads the tokens of a checkpoint's tokenizer by id.

    Args:
        directory: of the checkpoint.
        vocab_size: rows of the model's logits; ids up to it that no token has are unused.

    Returns:
        At least `vocab_size` entries; more where the tokenizer has ids that the model never gives.

    Raises:
        TokenizerError: the tokenizer is missing, malformed or of another kind.
    """
    path = directory / TOKENIZER_FILE
    if not path.exists():
        raise _no_tokenizer(directory)
    tokenizer = read_json_object(path, TokenizerError, max_bytes=MAX_TOKENIZER_BYTES)
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise _error(path, "model", "is not an object")
    kind = model.get("type", "BPE")  # tokenizers before 0.6 did not write it
    if kind != "BPE":
        raise _error(path, "model.type", f"{kind!r} is not supported; 'BPE' is")
    to_bytes = _byte_level if _is_byte_level(path, tokenizer.get("decoder")) else _sentencepiece
    texts: dict[int, TokenText] = {}
    for token, token_id in _vocab(path, model).items():
        if token_id in texts:
            raise _error(path, "model.vocab", f"two tokens have the id {token_id}")
        texts[token_id] = TokenText(to_bytes(token))
    for token_id, added in _added_tokens(path, tokenizer).items():
        texts[token_id] = added
    count = max(vocab_size, max(texts, default=0) + 1)
    return [texts.get(token_id, UNUSED) for token_id in range(count)]


def _no_tokenizer(directory: Path) -> TokenizerError:
    fix = "give --skip_tokenizer to build an engine that takes and gives token ids only"
    if (directory / "tokenizer.model").exists():
        fix = (
            "tokenizer.model alone is not read; save the tokenizer again with "
            f"AutoTokenizer.from_pretrained(...).save_pretrained(...), or {fix}"
        )
    return TokenizerError(str(directory), [Problem(TOKENIZER_FILE, "is missing", fix)])


def _error(path: Path, field: str, message: str) -> TokenizerError:
    return TokenizerError(str(path), [Problem(field, message)])


def _is_byte_level(path: Path, decoder: Any) -> bool:
    """Which of the two kinds the decoder makes it; raises on any other."""
    kinds = [
        str(step.get("type")) if isinstance(step, dict) else repr(step)
        for step in _decoder_steps(decoder)
    ]
    if kinds and set(kinds) <= BYTE_LEVEL_DECODERS:
        return True
    if ("Replace" in kinds or "Metaspace" in kinds) and set(kinds) <= SENTENCEPIECE_DECODERS:
        for step in _decoder_steps(decoder):
            if step["type"] == "Replace" and (
                step.get("pattern") != {"String": SPACE_MARK} or step.get("content") != " "
            ):
                raise _error(path, "decoder", "replaces something else than U+2581 by a space")
        return False
    raise _error(
        path,
        "decoder",
        f"{' + '.join(kinds) or None} is not supported; ByteLevel is, and Replace or Metaspace "
        "with ByteFallback, Fuse and Strip",
    )


def _decoder_steps(decoder: Any) -> list[Any]:
    if isinstance(decoder, dict) and decoder.get("type") == "Sequence":
        steps = decoder.get("decoders")
        return list(steps) if isinstance(steps, list) else [decoder]
    return [] if decoder is None else [decoder]


def _vocab(path: Path, model: Mapping[str, Any]) -> dict[str, int]:
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise _error(path, "model.vocab", "is not an object")
    for token, token_id in vocab.items():
        _check_id(path, f"model.vocab[{token!r}]", token_id)
    return vocab


def _check_id(path: Path, field: str, token_id: Any) -> None:
    is_integer = isinstance(token_id, int) and not isinstance(token_id, bool)
    if not is_integer or not 0 <= token_id < MAX_TOKENS:
        raise _error(path, field, f"{token_id!r} is not a token id below {MAX_TOKENS}")


def _added_tokens(path: Path, tokenizer: Mapping[str, Any]) -> dict[int, TokenText]:
    """Tokens outside the vocabulary proper; their text is written as it is."""
    entries = tokenizer.get("added_tokens") or []
    if not isinstance(entries, list):
        raise _error(path, "added_tokens", "is not a list")
    added: dict[int, TokenText] = {}
    for index, entry in enumerate(entries):
        field = f"added_tokens[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise _error(path, field, "is not an object with content")
        _check_id(path, f"{field}.id", entry.get("id"))
        is_special = entry.get("special") is True
        added[entry["id"]] = TokenText(_utf8(entry["content"]), is_special)
    return added


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte: printable Latin-1 stands for itself, the rest for U+0100 and onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


BYTE_OF_CHARACTER = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return _utf8(token)  # a token added by hand, not written in the alphabet


def _sentencepiece(token: str) -> bytes:
    byte = BYTE_TOKEN.match(token)
    if byte:
        return bytes([int(byte[1], 16)])
    return _utf8(token.replace(SPACE_MARK, " "))


def _utf8(text: str) -> bytes:
    # A JSON escape can make half of a surrogate pair, which no text holds.
    return text.encode("utf-8", errors="replace")
