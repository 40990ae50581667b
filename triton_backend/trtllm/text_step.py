# SPDX-License-Identifier: Apache-2.0
"""What the steps of the ensemble that work on text have in common."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from enginery.runtime.errors import EngineryError

from ..clients import tensor_response
from ..model import end_with_server, string_parameters
from ..responses import Tensors
from .options import TextOptions
from .requests import Arrays

_LOG = logging.getLogger(__name__)


class TextStep(ABC):
    """A model that answers each request at once; the Python backend calls initialize and execute.

    Attributes:
        special_tokens: the parameter that says what becomes of special tokens.
    """

    special_tokens: ClassVar[str]

    def initialize(self, args: dict[str, str]) -> None:
        """Opens what the step needs.

        Args:
            args: from Triton server; `model_config` is the JSON of `config.pbtxt`.
        """
        import triton_python_backend_utils as pb_utils

        self._pb_utils = pb_utils
        end_with_server()
        parameters = string_parameters(json.loads(args["model_config"]))
        self._open(TextOptions.from_parameters(parameters, self.special_tokens))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers requests; a bad one with an error."""
        return [_respond(self._pb_utils, request, self._answer) for request in requests]

    @abstractmethod
    def _open(self, options: TextOptions) -> None:
        """Opens engine and tokenizer."""

    @abstractmethod
    def _answer(self, request: Any, arrays: Arrays) -> Tensors:
        """The outputs of a request; raises EngineryError where it is wrong."""


def _respond(pb_utils: Any, request: Any, answer: Callable[[Any, Arrays], Tensors]) -> Any:
    """The response to a request: its outputs, or the error that `answer` raised."""
    arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    try:
        tensors = answer(request, arrays)
    except EngineryError as error:
        return _error(pb_utils, str(error), pb_utils.TritonError.INVALID_ARG)
    except Exception as error:  # our bug: this request pays, the server lives
        _LOG.exception("request failed")
        message = f"{type(error).__name__}: {error}"
        return _error(pb_utils, message, pb_utils.TritonError.INTERNAL)
    return tensor_response(pb_utils, tensors)


def _error(pb_utils: Any, message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
