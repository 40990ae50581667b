# SPDX-License-Identifier: Apache-2.0
"""How the repository is to be written, and the `parameters` of its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from enginery.runtime.errors import InvalidArgumentError

from ..options import ModelOptions

_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class TrtllmOptions:
    """What the models are started with.

    Attributes:
        model: of the engine and its runtime.
        is_decoupled: whether `tensorrt_llm` may give several responses to a request, which
            streaming needs; TensorRT-LLM's `decoupled_mode`.
        excludes_input: `exclude_input_in_output` of requests that do not say.
        adds_special_tokens: whether `preprocessing` adds the tokenizer's own, such as BOS.
        skips_special_tokens: whether `postprocessing` leaves them out of texts.
        bls: of `tensorrt_llm_bls`.
        is_native: whether the native backend serves `tensorrt_llm`.
    """

    model: ModelOptions
    is_decoupled: bool = True
    excludes_input: bool = False
    adds_special_tokens: bool = True
    skips_special_tokens: bool = True
    bls: BlsOptions = field(default_factory=lambda: BlsOptions())
    is_native: bool = False


@dataclass(frozen=True)
class TextOptions:
    """What `preprocessing` and `postprocessing` are started with.

    Attributes:
        engine_dir: the engine directory.
        tokenizer_dir: where `tokenizer.json` is.
        with_special_tokens: `add_special_tokens` of the one, `skip_special_tokens` of the other.
    """

    engine_dir: str
    tokenizer_dir: str
    with_special_tokens: bool

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], switch: str) -> TextOptions:
        """Reads parameters.

        Args:
            parameters: as strings.
            switch: the name of the one that `with_special_tokens` is.

        Raises:
            InvalidArgumentError: lists every unknown key and every value that is not accepted.
        """
        known = ("engine_dir", "tokenizer_dir", switch)
        problems = [
            f"{name} = {value!r}: there is no such parameter; there are {', '.join(known)}"
            for name, value in parameters.items()
            if name not in known
        ]
        engine_dir = parameters.get("engine_dir", "")
        if not engine_dir:
            problems.append("engine_dir: is missing; name the engine directory")
        value = parameters.get(switch, "true")
        if value.lower() not in _TRUTH:
            problems.append(f"{switch} = {value!r}: must be true or false")
        if problems:
            raise InvalidArgumentError.from_problems("parameters", problems)
        directory = parameters.get("tokenizer_dir") or engine_dir
        return cls(engine_dir, directory, _TRUTH[value.lower()])


@dataclass(frozen=True)
class BlsOptions:
    """What `tensorrt_llm_bls` is started with.

    Attributes:
        model_name: of the model that it asks for tokens; `tensorrt_llm_model_name`.
        accumulates_tokens: whether each response has the whole text so far; `accumulate_tokens`.
    """

    model_name: str = "tensorrt_llm"
    accumulates_tokens: bool = False

    def to_parameters(self) -> dict[str, str]:
        """The parameters that `from_parameters` reads back."""
        return {
            "tensorrt_llm_model_name": self.model_name,
            "accumulate_tokens": _text(self.accumulates_tokens),
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> BlsOptions:
        """Reads parameters.

        Raises:
            InvalidArgumentError: lists every unknown key and every value that is not accepted.
        """
        known = cls().to_parameters()
        given = {**known, **parameters}
        problems = [
            f"{name} = {value!r}: there is no such parameter; there are {', '.join(known)}"
            for name, value in parameters.items()
            if name not in known
        ]
        accumulates = given["accumulate_tokens"].lower()
        if accumulates not in _TRUTH:
            problems.append(f"accumulate_tokens = {accumulates!r}: must be true or false")
        if not given["tensorrt_llm_model_name"]:
            problems.append("tensorrt_llm_model_name: is empty; name the model, or leave it out")
        if problems:
            raise InvalidArgumentError.from_problems("parameters", problems)
        return cls(given["tensorrt_llm_model_name"], _TRUTH[accumulates])


def tensorrt_llm_parameters(options: TrtllmOptions) -> dict[str, str]:
    """The parameters of `tensorrt_llm`: those of the other layout's model, and one of its own.

    It takes token ids and has no use for the tokenizer.
    """
    parameters = replace(options.model, tokenizer_dir="").to_parameters()
    parameters["exclude_input_in_output"] = _text(options.excludes_input)
    return parameters


def read_tensorrt_llm_parameters(
    parameters: Mapping[str, str],
    read_options: Callable[[Mapping[str, str]], ModelOptions] = ModelOptions.from_parameters,
) -> tuple[ModelOptions, bool]:
    """Reads them back: the options, and whether responses leave out the prompt.

    Args:
        parameters: as strings.
        read_options: reads those of the other layout's model.

    Raises:
        InvalidArgumentError: lists every unknown key and every value that is not accepted.
    """
    rest = dict(parameters)
    value = rest.pop("exclude_input_in_output", "false")
    if value.lower() not in _TRUTH:
        raise InvalidArgumentError(
            f"parameters: exclude_input_in_output = {value!r}: must be true or false"
        )
    return read_options(rest), _TRUTH[value.lower()]


def text_parameters(options: TrtllmOptions, switch: str, is_on: bool) -> dict[str, str]:
    """The parameters of `preprocessing` and `postprocessing`."""
    model = options.model
    return {
        "engine_dir": model.engine_dir,
        "tokenizer_dir": model.tokenizer_dir or model.engine_dir,
        switch: _text(is_on),
    }


def _text(value: bool) -> str:
    return str(value).lower()
