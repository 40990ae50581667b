# SPDX-License-Identifier: Apache-2.0
"""The text of token ids, as the engine's `token_bytes` section gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError

_SPECIAL = 1

T = TypeVar("T")


class TokenBytes:
    """What each token id adds to the text.

    Args:
        engine: may be closed afterwards; what is needed of it is copied.
    """

    def __init__(self, engine: Engine) -> None:
        # The library has checked the section when it opened the engine (docs/engine-format.md).
        section = engine.section("token_bytes")
        count = int(section[:4].view(np.uint32)[0])
        flags_begin = 16 + 4 * (count + 1)
        self.num_tokens = count
        self._offsets: list[int] = section[16:flags_begin].view(np.uint32).tolist()
        self._flags = section[flags_begin : flags_begin + count].tobytes()
        self._data = section[flags_begin + count :].tobytes()

    def is_special(self, token_id: int) -> bool:
        """Whether the token is left out of texts unless asked for."""
        return bool(self._flags[token_id] & _SPECIAL)

    def of(self, token_id: int) -> bytes:
        """The bytes of a token in the vocabulary."""
        return self._data[self._offsets[token_id] : self._offsets[token_id + 1]]

    def shown(self, token_id: int) -> bytes:
        """As `of`, but nothing for special tokens."""
        return b"" if self.is_special(token_id) else self.of(token_id)

    def text(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of tokens taken as a whole; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InvalidArgumentError: a token is outside the vocabulary.
        """
        for token_id in token_ids:
            if not 0 <= token_id < self.num_tokens:
                raise InvalidArgumentError(
                    f"token id {token_id}: the vocabulary has {self.num_tokens}"
                )
        shown = self.shown if skip_special_tokens else self.of
        return b"".join(map(shown, token_ids)).decode("utf-8", "replace")


class CharacterGate(Generic[T]):
    """Holds back tokens of a stream until no character is cut between what went and what comes.

    Whoever turns each response of a stream into text by itself, as `postprocessing` does, then gets
    whole characters. A token is held for as long as the next ones may complete its last character.

    Args:
        bytes_of: gives the bytes that an item adds to the text.
    """

    def __init__(self, bytes_of: Callable[[T], bytes]) -> None:
        self._bytes_of = bytes_of
        self._held: list[T] = []
        # Continuation bytes that the last character still lacks.
        self._num_missing = 0

    def put(self, items: Sequence[T]) -> list[T]:
        """Adds items and returns those that may go, in order."""
        cut = 0
        for item in items:
            data = self._bytes_of(item)
            # A character that is not continued was never one: the cut before it breaks nothing.
            if data and data[0] & 0xC0 != 0x80:
                cut = len(self._held)
            self._held.append(item)
            self._num_missing = _num_missing(self._num_missing, data)
            if self._num_missing == 0:
                cut = len(self._held)
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def flush(self) -> list[T]:
        """What is still held: nothing more comes."""
        released, self._held = self._held, []
        return released


def _num_missing(missing: int, data: bytes) -> int:
    """Continuation bytes that are lacking after `data`, when `missing` were before it."""
    for byte in data:
        if byte & 0xC0 == 0x80:
            missing = max(0, missing - 1)
        else:
            missing = 3 if 0xF0 <= byte < 0xF5 else 2 if 0xE0 <= byte < 0xF0 else 0
            if 0xC2 <= byte < 0xE0:
                missing = 1
    return missing
