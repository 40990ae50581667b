# SPDX-License-Identifier: Apache-2.0
"""The prompts of a completion: texts, token ids, or a list of either."""

from __future__ import annotations

from typing import Any

from .errors import shown

MAX_PROMPTS = 128
INT32_MAX = 2**31 - 1

Prompt = str | list[int]

_TOKEN_IDS_SCHEMA = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": INT32_MAX},
}
TEXT_SCHEMA = {"type": "string", "minLength": 1}
PROMPT_SCHEMA = {
    "anyOf": [
        TEXT_SCHEMA,
        _TOKEN_IDS_SCHEMA,
        {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_PROMPTS,
            "items": {"anyOf": [TEXT_SCHEMA, _TOKEN_IDS_SCHEMA]},
        },
    ]
}


def read_prompts(value: Any) -> list[Prompt]:
    """What a client gave for `prompt`, as a list of prompts.

    Raises:
        ValueError: it is no prompt; says which and why.
    """
    is_many = isinstance(value, list) and value and type(value[0]) is not int
    prompts = value if is_many else [value]
    if len(prompts) > MAX_PROMPTS:
        raise ValueError(f"has {len(prompts)} prompts; at most {MAX_PROMPTS}")
    return [_read_prompt(f"prompt {i}: " if is_many else "", p) for i, p in enumerate(prompts)]


def _read_prompt(where: str, prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        if not prompt:
            raise ValueError(f"{where}is empty; a prompt has at least one character")
        try:
            return characters(prompt)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
    if isinstance(prompt, list) and set(map(type, prompt)) <= {int}:  # JSON's true is none
        if not prompt:
            raise ValueError(f"{where}is empty; a prompt has at least one token")
        return prompt
    raise ValueError(f"{where}{shown(prompt)} is neither a text nor a list of token ids")


def characters(text: str) -> str:
    """The text; raises ValueError where it is none, which JSON allows."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start} is a lone surrogate, no character") from None
    return text
