# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of the tiny checkpoints: byte-level BPE of 320 tokens, in Hugging Face form.

Token ids 0-255 are the byte values themselves, 256-313 come from the merges below, in order, and
314-319 are special. Every text round-trips, and a text without merges has one token per byte.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Frequent pairs of English prose, most frequent first; Ġ is the byte-level letter of the space.
_MERGES = """
t h|Ġ th|Ġth e|Ġ a|n d|Ġ s|Ġ h|Ġ o|i n|Ġ w|e r|Ġa nd|Ġo f|r e|Ġ b|t o|o u|Ġ m|Ġ f|l l|i s|a t|e n|
o r|Ġ c|e s|e d|o n|Ġ u|Ġ A|Ġ d|Ġ in|Ġ p|Ġ to|h a|in g|e a|Ġ n|i t|Ġb e|Ġ I|ĠA nd|a n|Ġth at|Ġw i|
Ġh a|o m|Ġ l|Ġs ha|Ġw h|Ġ g|Ġ y|Ġs a|Ġh e|s e|i m|Ġu n|s t
"""
MERGES = tuple(merge.strip() for merge in _MERGES.replace("\n", "").split("|"))

SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
BOS_TOKEN_ID = 256 + len(MERGES)
EOS_TOKEN_ID = BOS_TOKEN_ID + 1
TOKENIZER_VOCAB_SIZE = BOS_TOKEN_ID + len(SPECIAL_TOKENS)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte value, indexed by it.

    Printable Latin-1 characters stand for themselves; the other bytes take code points from 256
    on, in order. This is the alphabet of GPT-2, which every byte-level tokenizer.json uses.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def write_tiny_tokenizer(directory: Path, *, adds_bos: bool) -> None:
    """Writes tokenizer.json and tokenizer_config.json into the existing `directory`.

    Args:
        directory: Where the two files go.
        adds_bos: Whether encoding a text puts <|begin_of_text|> first, as Llama's and Mistral's
            tokenizers do and Qwen's do not.
    """
    tokens = byte_letters() + [merge.replace(" ", "") for merge in MERGES]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special_token(i, text) for i, text in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": _bos_template() if adds_bos else byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": list(MERGES),
        },
    }
    tokenizer_config = {
        "add_bos_token": adds_bos,
        "bos_token": SPECIAL_TOKENS[0],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL_TOKENS[1],
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, value in (("tokenizer", tokenizer), ("tokenizer_config", tokenizer_config)):
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        (directory / f"{name}.json").write_text(text, encoding="utf-8")


def _special_token(index: int, text: str) -> dict[str, Any]:
    return {
        "id": BOS_TOKEN_ID + index,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _bos_template() -> dict[str, Any]:
    """The post-processor that puts <|begin_of_text|> before each text."""
    bos = {"SpecialToken": {"id": SPECIAL_TOKENS[0], "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, bos, second],
        "special_tokens": {
            SPECIAL_TOKENS[0]: {
                "id": SPECIAL_TOKENS[0],
                "ids": [BOS_TOKEN_ID],
                "tokens": [SPECIAL_TOKENS[0]],
            }
        },
    }
