# SPDX-License-Identifier: Apache-2.0
"""The `token_bytes` section (docs/engine-format.md)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

from enginery.builder.tokenizer.vocabulary import TokenText

SPECIAL = 1
UNUSED = 2


def encode_token_bytes(tokens: Sequence[TokenText]) -> bytes:
    """Returns the section's bytes: a table of offsets, flags, and the texts one after another."""
    data = b"".join(token.text for token in tokens)
    offsets = itertools.accumulate((len(token.text) for token in tokens), initial=0)
    flags = bytes(SPECIAL * token.is_special | UNUSED * token.is_unused for token in tokens)
    section = struct.pack("<2IQ", len(tokens), 0, len(data))
    section += struct.pack(f"<{len(tokens) + 1}I", *offsets)
    section += flags + data
    return section + bytes(-len(section) % 8)
