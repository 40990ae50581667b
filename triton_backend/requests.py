# SPDX-License-Identifier: Apache-2.0
"""From the input tensors of a Triton server request to what the runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.sampling_params import SamplingParams
from enginery.runtime.tokenizer import Tokenizer

from .tensors import INPUTS, TensorSpec

ReadTensor = Callable[[str], npt.NDArray[Any] | None]
"""Name of an input to its array; None when the request does not have it."""


@dataclass(frozen=True)
class GenerationRequest:
    """One request, ready for `Runtime.submit`."""

    prompt: str | None
    prompt_token_ids: Sequence[int]
    sampling_params: SamplingParams
    bad_token_sequences: Sequence[Sequence[int]]
    is_streaming: bool
    repeats_prompt: bool
    returns_log_probs: bool
    returns_perf_metrics: bool
    priority: int
    timeout_ms: int


def read_request(read: ReadTensor, tokenizer: Callable[[], Tokenizer]) -> GenerationRequest:
    """Reads and checks the inputs; what needs the engine's limits is checked by submit.

    Args:
        read: gives the arrays.
        tokenizer: called only when text has to be encoded.

    Raises:
        InvalidArgumentError: names the input, what it is and what is accepted.
    """
    values = {spec.name: _value(spec, read(spec.name)) for spec in INPUTS}
    prompt, token_ids = _prompt(values, tokenizer)
    options = {
        spec.option: values[spec.name]
        for spec in INPUTS
        if spec.option is not None and values[spec.name] is not None
    }
    max_tokens = _one_of(values, "max_tokens", "request_output_len")
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    returns_log_probs = bool(values["return_log_probs"])
    if returns_log_probs:
        options["logprobs"] = 0
    params = SamplingParams(**options)
    return GenerationRequest(
        prompt=prompt,
        prompt_token_ids=token_ids,
        sampling_params=params,
        bad_token_sequences=tokenizer().bad_token_sequences(params.bad) if params.bad else (),
        is_streaming=bool(_one_of(values, "stream", "streaming")),
        repeats_prompt=values["exclude_input_in_output"] is False,
        returns_log_probs=returns_log_probs,
        returns_perf_metrics=bool(values["return_perf_metrics"]),
        priority=values["priority"] or 0,
        timeout_ms=values["timeout_ms"] or 0,
    )


def _prompt(
    values: dict[str, Any], tokenizer: Callable[[], Tokenizer]
) -> tuple[str | None, Sequence[int]]:
    text, token_ids = values["text_input"], values["input_ids"]
    if (text is None) == (token_ids is None):
        both = "both are given" if text is not None else "neither is given"
        raise InvalidArgumentError(f"text_input, input_ids: {both}; give one of them")
    if token_ids is not None:
        return None, token_ids
    if text == "":
        raise InvalidArgumentError("text_input: is empty; a prompt has at least one character")
    return text, tokenizer().encode(text)


def _one_of(values: dict[str, Any], name: str, alias: str) -> Any:
    """The value of an input that has two names."""
    first, second = values[name], values[alias]
    if first is not None and second is not None and first != second:
        raise InvalidArgumentError(
            f"{name} = {first}, {alias} = {second}: two names of one thing; give one of them"
        )
    return second if first is None else first


def _value(spec: TensorSpec, array: npt.NDArray[Any] | None) -> Any:
    """A Python value: a list for inputs of any length, else a scalar; None when not given."""
    if array is None:
        return None
    items = [
        _text(spec.name, item) if spec.data_type == "STRING" else item
        for item in np.asarray(array).reshape(-1).tolist()
    ]
    if spec.dims == (-1,):
        return items
    if len(items) != 1:
        raise InvalidArgumentError(f"{spec.name}: has {len(items)} values; give one")
    return items[0]


def _text(name: str, raw: bytes | str) -> str:
    if isinstance(raw, str):
        return raw
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{name}: is not UTF-8: {error}") from None
