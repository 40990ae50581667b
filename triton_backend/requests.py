# SPDX-License-Identifier: Apache-2.0
"""From the input tensors of a Triton server request to what the runtime takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.options import Unsupported, option_problems
from enginery.runtime.sampling_params import UNSUPPORTED, SamplingParams, token_id_of_name
from enginery.runtime.tokenizer import Tokenizer

from .tensors import INPUTS, TensorSpec

_OPTIONS = {spec.option: spec for spec in INPUTS if spec.option is not None}
# As many sequences as the runtime takes.
_MAX_BAD_WORDS = 4096
# Inputs of TensorRT-LLM's ensemble that its clients send with the value that leaves them off.
_UNSUPPORTED: Unsupported = {
    **UNSUPPORTED,
    "beam_width": ((1,), "beam search is not built; num_return_sequences draws several"),
}


@dataclass(frozen=True)
class GenerationRequest:
    """One request, ready for `Runtime.submit`."""

    prompt: str | None
    """None when the prompt was given as token ids."""
    prompt_token_ids: Sequence[int]
    sampling_params: SamplingParams
    bad_token_sequences: Sequence[Sequence[int]]
    is_streaming: bool
    repeats_prompt: bool
    returns_perf_metrics: bool
    priority: int
    timeout_ms: int


def read_request(
    arrays: Mapping[str, npt.NDArray[Any]], tokenizer: Callable[[], Tokenizer]
) -> GenerationRequest:
    """Reads and checks the inputs; what needs the engine's limits is checked by submit.

    Args:
        arrays: the inputs that the request has, by name.
        tokenizer: called when text has to be encoded.

    Raises:
        InvalidArgumentError: names the input, what it is and what is accepted.
        NotFoundError: text was given and there is no tokenizer.
    """
    values = {spec.name: _value(spec, arrays.get(spec.name)) for spec in INPUTS}
    prompt, token_ids = _prompt(values, tokenizer)
    params = SamplingParams(**_sampling_options(values))
    if len(params.bad) > _MAX_BAD_WORDS:  # else each would be encoded before submit counts them
        raise InvalidArgumentError(
            f"bad_words: has {len(params.bad)} words; give at most {_MAX_BAD_WORDS}"
        )
    return GenerationRequest(
        prompt=prompt,
        prompt_token_ids=token_ids,
        sampling_params=params,
        bad_token_sequences=tokenizer().bad_token_sequences(params.bad) if params.bad else (),
        is_streaming=bool(_one_of(values, "stream", "streaming")),
        repeats_prompt=values["exclude_input_in_output"] is False,
        returns_perf_metrics=bool(values["return_perf_metrics"]),
        priority=values["priority"] or 0,
        timeout_ms=values["timeout_ms"] or 0,
    )


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Checks what the HTTP generate extension takes for parameters: JSON keys of no input.

    Without this a misspelt option would be ignored, and so would one that other servers have and
    this one lacks.

    Raises:
        InvalidArgumentError: lists the names, with the reason or the input that was meant.
    """
    given = {name: value for name, value in parameters.items() if not is_servers_own(name)}
    problems = option_problems([spec.name for spec in INPUTS], given, _UNSUPPORTED)
    if problems:
        raise InvalidArgumentError.from_problems("request", problems)


def is_servers_own(name: str) -> bool:
    """Whether a parameter is for Triton server, which hands it on.

    `id` of HTTP's `generate` is the request's id as well; others are such as
    `triton_enable_empty_final_response`.
    """
    return name == "id" or name.startswith("triton_")


def shorter_timeout_ms(timeout_ms: int, server_timeout_us: int) -> int:
    """The limit of a request that may have two; 0: it has none.

    Args:
        timeout_ms: what the model's own input says; 0: nothing.
        server_timeout_us: Triton server's own limit, which clients give as `timeout`, in
            microseconds; 0: none.
    """
    if server_timeout_us == 0:
        return timeout_ms
    server_timeout_ms = server_timeout_us // 1000 + 1  # never before its time
    return min(timeout_ms, server_timeout_ms) if timeout_ms else server_timeout_ms


def _prompt(
    values: Mapping[str, Any], tokenizer: Callable[[], Tokenizer]
) -> tuple[str | None, Sequence[int]]:
    text, token_ids = values["text_input"], values["input_ids"]
    if (text is None) == (token_ids is None):
        both = "both are given" if text is not None else "neither is given"
        raise InvalidArgumentError(f"text_input, input_ids: {both}; give one of them")
    if token_ids is not None:
        return None, token_ids
    if text == "":
        raise InvalidArgumentError("text_input: is empty; a prompt has at least one character")
    return text, tokenizer().encode(text, name="text_input")


def _sampling_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of SamplingParams that the request gives, in one way or the other."""
    options = {
        option: values[spec.name]
        for option, spec in _OPTIONS.items()
        if values[spec.name] is not None
    }
    max_tokens = _one_of(values, "max_tokens", "request_output_len")
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    bias = _logit_bias(values["logit_bias_ids"], values["logit_bias_values"])
    if bias is not None:
        options["logit_bias"] = bias
    for name, value in _json_object(values["sampling_parameters"]).items():
        if name not in _OPTIONS:
            raise InvalidArgumentError(
                f"sampling_parameters: {name}: there is no such option; there are "
                + ", ".join(_OPTIONS)
            )
        if name in options:
            raise InvalidArgumentError(
                f"sampling_parameters: {name}: is given by an input too; give one of them"
            )
        options[name] = _with_token_ids(value) if name == "logit_bias" else value
    if values["return_log_probs"] and options.get("logprobs") is None:
        options["logprobs"] = 0
    return options


def _logit_bias(
    token_ids: Sequence[int] | None, values: Sequence[float] | None
) -> Mapping[int, float] | None:
    """The two inputs as one mapping; None when neither is given."""
    if token_ids is None and values is None:
        return None
    token_ids, values = token_ids or (), values or ()
    if len(token_ids) != len(values):
        raise InvalidArgumentError(
            f"logit_bias_ids, logit_bias_values: have {len(token_ids)} and {len(values)} values; "
            "give one value per token id"
        )
    bias = dict(zip(token_ids, values, strict=True))
    if len(bias) != len(token_ids):
        raise InvalidArgumentError("logit_bias_ids: has a token id twice; give each once")
    return bias


def _with_token_ids(bias: Any) -> Any:
    """The object of `sampling_parameters`, whose names are token ids; other names stay."""
    if not isinstance(bias, Mapping):
        return bias
    token_ids = {name: token_id_of_name(name) for name in bias}
    return {name if i is None else i: bias[name] for name, i in token_ids.items()}


def _json_object(text: str | None) -> Mapping[str, Any]:
    try:
        value = {} if text is None else json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"sampling_parameters: is not JSON: {error}") from None
    except RecursionError:
        raise InvalidArgumentError("sampling_parameters: is nested too deep") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError("sampling_parameters: must be a JSON object")
    return value


def _one_of(values: Mapping[str, Any], name: str, alias: str) -> Any:
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
    items = array.reshape(-1).tolist()
    if spec.data_type == "STRING":
        items = [_text(spec.name, item) for item in items]
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
