# SPDX-License-Identifier: Apache-2.0
"""The forms in which `LLM` takes prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from .errors import InvalidArgumentError
from .request import token_id_array
from .sampling_params import SamplingParams
from .tokenizer import Tokenizer


class PromptDict(TypedDict, total=False):
    """A prompt by name; one of the two."""

    prompt: str
    prompt_token_ids: Sequence[int]


Prompt: TypeAlias = str | Sequence[int] | npt.NDArray[np.integer[Any]] | PromptDict
"""A text, token ids, or either by name."""


def encode_prompt(
    prompt: Any, params: SamplingParams, tokenizer: Callable[[], Tokenizer]
) -> tuple[str | None, list[int]]:
    """A prompt's text, None when it came as token ids, and its token ids.

    Args:
        prompt: a `Prompt`.
        params: say whether special tokens are added and how much is kept.
        tokenizer: called when the prompt is a text.

    Raises:
        InvalidArgumentError: it is none.
    """
    text: str | None = None
    if isinstance(prompt, Mapping):
        given = [name for name in ("prompt", "prompt_token_ids") if prompt.get(name) is not None]
        if len(given) != 1 or prompt.keys() - {"prompt", "prompt_token_ids"}:
            raise InvalidArgumentError(
                f"inputs: {sorted(prompt)}: give 'prompt' or 'prompt_token_ids'"
            )
        prompt = prompt[given[0]]
    if isinstance(prompt, str):
        text = prompt
        token_ids = tokenizer().encode(text, add_special_tokens=params.add_special_tokens)
    else:
        token_ids = token_id_array("prompt_token_ids", prompt).tolist()
    if params.truncate_prompt_tokens is not None:
        token_ids = token_ids[-params.truncate_prompt_tokens :]
    return text, token_ids


def is_single_prompt(inputs: Any) -> bool:
    """Whether `inputs` is one prompt and not a list of them."""
    if isinstance(inputs, str | Mapping):
        return True
    if isinstance(inputs, np.ndarray):
        return inputs.ndim == 1
    if not isinstance(inputs, Sequence):
        raise InvalidArgumentError(
            f"inputs: is a {type(inputs).__name__}: must be a text, a list of token ids, or a list "
            "of those"
        )
    return bool(len(inputs)) and all(isinstance(entry, int | np.integer) for entry in inputs)


def one_per_prompt(
    params: SamplingParams | Sequence[SamplingParams] | None, num_prompts: int
) -> list[SamplingParams]:
    """`params` for each of `num_prompts`; raises InvalidArgumentError when their numbers differ."""
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * num_prompts
    if len(params) != num_prompts:
        raise InvalidArgumentError(
            f"sampling_params: has {len(params)} entries for {num_prompts} prompts"
        )
    return list(params)
