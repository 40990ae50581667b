# SPDX-License-Identifier: Apache-2.0
"""The ways to lay out a model repository, and what a model in one is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .pbtxt import Message

ENGINERY = "enginery"
TENSORRT_LLM = "tensorrt_llm"
LAYOUTS = (ENGINERY, TENSORRT_LLM)


@dataclass(frozen=True)
class ServedModel:
    """One folder of a repository.

    Attributes:
        name: of the model and its folder.
        config: `config.pbtxt` as a message.
        module: where its TritonPythonModel is; None: it has no Python.
        read_parameters: reads the `parameters` of the config as the model does; None: it has none.
    """

    name: str
    config: Message
    module: str | None = None
    read_parameters: Callable[[Mapping[str, str]], object] | None = None
