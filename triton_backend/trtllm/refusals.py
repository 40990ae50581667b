# SPDX-License-Identifier: Apache-2.0
"""Refuses inputs that ask for what there is not, and parameters that no model reads."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from enginery.runtime.errors import InvalidArgumentError

from ..requests import is_servers_own
from .tensors import ENSEMBLE_INPUTS, InputSpec

# NVIDIA's client sends it beside the input `streaming`, which is what counts.
_STREAMING = "Streaming"
# A name that a request to `tensorrt_llm` can have beside its id, which clients choose.
TICKET = "enginery_ticket"
_LONGEST_VALUE = 60

_ENSEMBLE_NAMES = {target: name for name, _, target in ENSEMBLE_INPUTS}


def refuse_unsupported(specs: Iterable[InputSpec], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Checks that inputs which do not work ask for nothing.

    Args:
        specs: the inputs of the model.
        arrays: those that the request has.

    Raises:
        InvalidArgumentError: lists those that do, with the reasons.
    """
    problems = []
    for spec in specs:
        array = arrays.get(spec.name)
        if not spec.refusal or array is None:
            continue
        values = [_plain(value) for value in array.reshape(-1).tolist()]
        if any(value not in spec.off for value in values):
            problems.append(f"{spec.name}{_alias(spec)} = {_shown(values)}: {spec.refusal}")
    if problems:
        raise InvalidArgumentError.from_problems("not supported", problems)


def refuse_parameters(text: str) -> None:
    """Checks the request's parameters: keys of HTTP's `generate` that name no input end up there.

    Args:
        text: JSON, as Triton server gives it; "" for none.

    Raises:
        InvalidArgumentError: lists the names, with the input that was perhaps meant.
    """
    names = [name for name, _, _ in ENSEMBLE_INPUTS]
    problems = []
    for name in json.loads(text or "{}"):
        if is_servers_own(name) or name in (_STREAMING, TICKET):
            continue
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        problems.append(f"{name}: there is no such option{hint}")
    if problems:
        raise InvalidArgumentError.from_problems("request", problems)


def _alias(spec: InputSpec) -> str:
    name = _ENSEMBLE_NAMES.get(spec.name, spec.name)
    return "" if name == spec.name else f" ({name} of the ensemble)"


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _shown(values: list[Any]) -> str:
    text = repr(values[0] if len(values) == 1 else values)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
