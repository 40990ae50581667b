# SPDX-License-Identifier: Apache-2.0
"""The models of the layout `tensorrt_llm`, written from the tables in `tensors.py`.

ensemble         text in, text out, of the three below
preprocessing    text and words to token ids
tensorrt_llm     token ids to token ids
postprocessing   token ids to text
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from enginery.runtime.errors import NotFoundError

from ..layouts import ServedModel
from ..native_backend import BACKEND_NAME, check_native_parameters
from ..options import ModelOptions
from ..pbtxt import Field, Message, Symbol
from ..tensors import TensorSpec
from .options import (
    BlsOptions,
    TextOptions,
    TrtllmOptions,
    read_tensorrt_llm_parameters,
    tensorrt_llm_parameters,
    text_parameters,
)
from .tensors import (
    BLS,
    BLS_INPUTS,
    ENSEMBLE_INPUTS,
    ENSEMBLE_LINKS,
    ENSEMBLE_OUTPUTS,
    INPUTS,
    OUTPUTS,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
)

DEFAULT_MODEL_NAME = "ensemble"
STEPS = (PREPROCESSING, TENSORRT_LLM, POSTPROCESSING)
FIXED_NAMES = (*STEPS, BLS)

_MODULES = {
    PREPROCESSING: "enginery.triton_backend.trtllm.preprocessing",
    TENSORRT_LLM: "enginery.triton_backend.trtllm.model",
    POSTPROCESSING: "enginery.triton_backend.trtllm.postprocessing",
}


def check_tokenizer(options: ModelOptions) -> None:
    """Refuses an engine without a tokenizer, with which `preprocessing` would not start.

    Raises:
        NotFoundError: there is no `tokenizer.json`.
    """
    path = Path(options.tokenizer_dir or options.engine_dir) / "tokenizer.json"
    if not path.is_file():
        raise NotFoundError(
            f"tokenizer: {path} is not there, and preprocessing needs it; name a directory that "
            "has one with --tokenizer_dir, or serve token ids with --layout enginery"
        )


def read_model_parameters(parameters: Mapping[str, str], *, is_native: bool) -> ModelOptions:
    """Reads the parameters of `tensorrt_llm` as its backend does.

    Raises:
        InvalidArgumentError: one is unknown, not accepted, or not the backend's; or the native
            backend does not run the engine.
    """
    read = check_native_parameters if is_native else ModelOptions.from_parameters
    return read_tensorrt_llm_parameters(parameters, read)[0]


def served_models(
    options: TrtllmOptions, max_batch_size: int, ensemble_name: str = DEFAULT_MODEL_NAME
) -> list[ServedModel]:
    """All models of the layout, the one that clients ask for first.

    Args:
        options: become parameters.
        max_batch_size: rows of one request, of every model.
        ensemble_name: no name of another model.
    """
    parameters = {
        PREPROCESSING: text_parameters(options, "add_special_tokens", options.adds_special_tokens),
        TENSORRT_LLM: tensorrt_llm_parameters(options),
        POSTPROCESSING: text_parameters(
            options, "skip_special_tokens", options.skips_special_tokens
        ),
    }
    readers: dict[str, Callable[[Mapping[str, str]], object]] = {
        PREPROCESSING: functools.partial(TextOptions.from_parameters, switch="add_special_tokens"),
        TENSORRT_LLM: functools.partial(read_model_parameters, is_native=options.is_native),
        POSTPROCESSING: functools.partial(
            TextOptions.from_parameters, switch="skip_special_tokens"
        ),
    }
    native = {TENSORRT_LLM} if options.is_native else set()
    return [
        _ensemble(ensemble_name, max_batch_size),
        *(
            ServedModel(
                name,
                _step_config(
                    name,
                    BACKEND_NAME if name in native else "python",
                    max_batch_size,
                    parameters[name],
                    is_decoupled=name == TENSORRT_LLM and options.is_decoupled,
                ),
                None if name in native else _MODULES[name],
                readers[name],
            )
            for name in STEPS
        ),
        _bls(options, max_batch_size),
    ]


def ensemble_inputs() -> list[TensorSpec]:
    """The ensemble's inputs: those that take them, under the ensemble's names."""
    by_name = {(step, spec.name): spec for step in STEPS for spec in INPUTS[step]}
    return [replace(by_name[step, target], name=name) for name, step, target in ENSEMBLE_INPUTS]


def ensemble_outputs() -> list[TensorSpec]:
    """The ensemble's outputs: those that give them, under the ensemble's names."""
    by_name = {(step, spec.name): spec for step in STEPS for spec in OUTPUTS[step]}
    return [replace(by_name[step, source], name=name) for name, step, source in ENSEMBLE_OUTPUTS]


def _step_config(
    name: str,
    backend: str,
    max_batch_size: int,
    parameters: Mapping[str, str],
    *,
    is_decoupled: bool,
) -> Message:
    return {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch_size,
        "model_transaction_policy": {"decoupled": is_decoupled},
        # Hands over together what has come meanwhile, and never waits for more. Without the order
        # kept, the ensemble may send the texts of a stream in any.
        "dynamic_batching": {"preserve_ordering": name == POSTPROCESSING},
        "input": [_input(spec) for spec in INPUTS[name]],
        "output": [_tensor(spec) for spec in OUTPUTS[name]],
        "instance_group": [{"kind": Symbol("KIND_CPU"), "count": 1}],
        "parameters": _parameters(parameters),
    }


def _ensemble(name: str, max_batch_size: int) -> ServedModel:
    config: Message = {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch_size,
        "input": [_input(spec) for spec in ensemble_inputs()],
        "output": [_tensor(spec) for spec in ensemble_outputs()],
        "ensemble_scheduling": {"step": [_step(step) for step in STEPS]},
    }
    return ServedModel(name, config)


def _bls(options: TrtllmOptions, max_batch_size: int) -> ServedModel:
    config: Message = {
        "name": BLS,
        "backend": "python",
        "max_batch_size": max_batch_size,
        "model_transaction_policy": {"decoupled": options.is_decoupled},
        "input": [_input(spec) for spec in (*ensemble_inputs(), *BLS_INPUTS)],
        "output": [_tensor(spec) for spec in ensemble_outputs()],
        "instance_group": [{"kind": Symbol("KIND_CPU"), "count": 1}],
        "parameters": _parameters(options.bls.to_parameters()),
    }
    module = "enginery.triton_backend.trtllm.bls"
    return ServedModel(BLS, config, module, BlsOptions.from_parameters)


def _parameters(parameters: Mapping[str, str]) -> list[Field]:
    return [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()]


def _step(step: str) -> Message:
    # "_" begins the names of what goes from step to step.
    inputs = [(target, name) for name, to, target in ENSEMBLE_INPUTS if to == step]
    inputs += [(target, f"_{source}") for _, source, to, target in ENSEMBLE_LINKS if to == step]
    outputs = [(source, f"_{source}") for of, source, _, _ in ENSEMBLE_LINKS if of == step]
    outputs += [(source, name) for name, of, source in ENSEMBLE_OUTPUTS if of == step]
    return {
        "model_name": step,
        "model_version": -1,
        "input_map": [{"key": key, "value": value} for key, value in inputs],
        "output_map": [{"key": key, "value": value} for key, value in outputs],
    }


def _input(spec: TensorSpec) -> Message:
    message: dict[str, Field] = {**_tensor(spec), "optional": spec.is_optional}
    if spec.dims != (1,):
        # Requests may be handed over together whatever the lengths of their tensors are.
        message["allow_ragged_batch"] = True
    return message


def _tensor(spec: TensorSpec) -> Message:
    return {
        "name": spec.name,
        "data_type": Symbol(f"TYPE_{spec.data_type}"),
        "dims": list(spec.dims),
    }
