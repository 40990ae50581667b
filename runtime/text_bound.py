# SPDX-License-Identifier: Apache-2.0
"""How few tokens a text can have, told from its bytes: what is too long need not be encoded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

# Bytes of a text per byte of what a normaliser makes of it, at most. ASCII is left as it is. Found
# by going through all characters: the longest for its decomposition (K, the sign of Kelvin, and
# mathematical letters), times the longest decomposition for the character (syllables of Hangul).
_SHRINKING = {"NFC": 9, "NFD": 3, "NFKC": 12, "NFKD": 4, "Lowercase": 3, "Prepend": 1}
# Pre-tokenizers that leave nothing out; those with a behaviour do where it is "Removed".
_KEEPING = {"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts"}


class TextBound:
    """The least number of tokens of a text.

    Every token stands for so many bytes at most as the longest one has. Where a tokenizer may leave
    out any part of a text the bound is 0.

    Args:
        tokenizer: a Hugging Face one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        steps = [*_flat(tokenizer.normalizer, "normalizers")]
        splits = [*_flat(tokenizer.pre_tokenizer, "pretokenizers")]
        added = [*tokenizer.get_added_tokens_decoder().values()]
        self._is_bounded = (
            all(map(_is_bounded, steps))
            and all(s["type"] in _KEEPING and s.get("behavior") != "Removed" for s in splits)
            and not (steps and any(token.normalized for token in added))
            and _has_every_text(tokenizer, is_byte_level=_is_byte_level(splits))
        )
        self._shrinking = math.prod(_SHRINKING.get(step["type"], 1) for step in steps)
        self._longest = _longest_token(tokenizer, added, is_byte_level=_is_byte_level(splits))
        # These take the spaces beside them, however many.
        self._stripping = [token.content for token in added if token.lstrip or token.rstrip]

    def min_tokens(self, text: str, num_bytes: int) -> int:
        """Tokens that the text has at least.

        Args:
            text: any.
            num_bytes: that it has in UTF-8.
        """
        if not self._is_bounded or any(token in text for token in self._stripping):
            return 0
        shrinking = 1 if text.isascii() else self._shrinking
        return -(-num_bytes // (self._longest * shrinking))


def _flat(step: Any, parts: str) -> Iterable[dict[str, Any]]:
    """What a step of a tokenizer does, one after the other."""
    description = None if step is None else json.loads(step.__getstate__())
    waiting = [description] if description else []
    while waiting:
        first, *waiting = waiting
        if first["type"] == "Sequence":
            waiting = first[parts] + waiting
        else:
            yield first


def _is_bounded(step: dict[str, Any]) -> bool:
    """Whether a normaliser shortens any text by a known factor at most."""
    if step["type"] == "Replace":
        old = step["pattern"].get("String", "")
        return 0 < len(old.encode()) <= len(step["content"].encode())
    return step["type"] in _SHRINKING


def _is_byte_level(splits: Iterable[dict[str, Any]]) -> bool:
    return any(split["type"] == "ByteLevel" for split in splits)


def _has_every_text(tokenizer: Tokenizer, *, is_byte_level: bool) -> bool:
    """Whether there are tokens for all bytes: else one may stand for all that is unknown."""
    from tokenizers import models, pre_tokenizers

    if is_byte_level:
        needed = pre_tokenizers.ByteLevel.alphabet()
    else:
        needed = [f"<0x{byte:02X}>" for byte in range(256)]
        if not getattr(tokenizer.model, "byte_fallback", False):
            return False
    is_known = all(tokenizer.token_to_id(token) is not None for token in needed)
    return isinstance(tokenizer.model, models.BPE) and is_known


def _longest_token(
    tokenizer: Tokenizer, added: Iterable[AddedToken], *, is_byte_level: bool
) -> int:
    """Bytes of the longest token."""
    own = tokenizer.get_vocab(with_added_tokens=False)
    # A letter of byte-level BPE is a byte, of whatever length it is itself.
    lengths = map(len, own) if is_byte_level else (len(token.encode()) for token in own)
    return max(1, *lengths, *(len(token.content.encode()) for token in added))
