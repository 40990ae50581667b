# SPDX-License-Identifier: Apache-2.0
"""What single tokens say, and where each stands in a text: for log probabilities."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_SPECIAL = 1


class TokenTexts:
    """The bytes of every token id, from an engine's `token_bytes` section.

    Args:
        section: the section's bytes (docs/engine-format.md), checked when the engine was opened.
    """

    def __init__(self, section: npt.NDArray[np.uint8]) -> None:
        raw = section.tobytes()
        num_tokens = int.from_bytes(raw[:4], "little")
        begin = 16 + 4 * (num_tokens + 1)
        self._offsets = np.frombuffer(raw, np.uint32, num_tokens + 1, 16)
        self._flags = raw[begin : begin + num_tokens]
        self._data = raw[begin + num_tokens :]

    def bytes_of(self, token_id: int) -> bytes:
        """What the token adds to a text when special tokens are shown."""
        return self._data[self._offsets[token_id] : self._offsets[token_id + 1]]

    def shown_bytes_of(self, token_id: int) -> bytes:
        """The same where special tokens are not shown."""
        return b"" if self._flags[token_id] & _SPECIAL else self.bytes_of(token_id)

    def text_of(self, token_id: int) -> str:
        """The token for people: as OpenAI writes it, bytes that are no characters in hexadecimal.

        A replacement character would make different tokens look the same.
        """
        raw = self.bytes_of(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of token ids, special tokens left out."""
        return b"".join(map(self.shown_bytes_of, token_ids)).decode("utf-8", "replace")


class Offsets:
    """Where tokens begin in the text of one choice, in characters, token by token.

    Args:
        texts: of the tokens.
        first: where the first token begins.
    """

    def __init__(self, texts: TokenTexts, first: int = 0) -> None:
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = first

    def next(self, token_ids: Iterable[int]) -> list[int]:
        """The offsets of the next tokens; a character in several tokens begins in the first."""
        found = []
        for token_id in token_ids:
            raw = self._texts.shown_bytes_of(token_id)
            is_pending = bool(self._decoder.getstate()[0])
            # Bytes of before that this token does not go on with become one replacement character.
            is_broken_off = is_pending and raw != b"" and raw[0] & 0xC0 != 0x80
            found.append(self._num_chars + is_broken_off)
            self._num_chars += len(self._decoder.decode(raw))
        return found
