# SPDX-License-Identifier: Apache-2.0
"""Fills an `enginery_request` from a prompt and its SamplingParams."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import abi
from .errors import InvalidArgumentError
from .library import load_library
from .sampling_params import SamplingParams

TokenIds: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]


def token_id_array(name: str, token_ids: TokenIds) -> npt.NDArray[np.int32]:
    """`token_ids` as int32 [num_tokens]; whether they lie in the vocabulary is checked later.

    Raises:
        InvalidArgumentError: they are not integers that fit into 32 bits.
    """
    array = np.asarray(token_ids)
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgumentError(
            f"{name}: dtype {array.dtype}, shape {list(array.shape)}: must be integers [num_tokens]"
        )
    low, high = int(array.min()), int(array.max())
    if low < -(2**31) or high >= 2**31:
        raise InvalidArgumentError(f"{name}: {low if low < 0 else high} is not a token id")
    return np.ascontiguousarray(array, np.int32)


class RequestStruct:
    """An `enginery_request` and everything that it points to.

    Args:
        prompt_token_ids: int [num_prompt_tokens].
        params: how to draw and when to end.
        bad_token_sequences: tokens of the words in `params.bad`.
        vocab_size: of the engine; the length that `params.embedding_bias` must have.
        streaming: whether events come as tokens come, or one per sequence at its end.
        priority: larger is admitted first.
        timeout_ms: 0: none.
        client_request_id: what the caller calls it; "": nothing.

    Raises:
        InvalidArgumentError: something does not fit into the struct. Ranges that depend on the
            engine are checked by `enginery_runtime_submit`.
    """

    def __init__(
        self,
        prompt_token_ids: TokenIds,
        params: SamplingParams,
        *,
        vocab_size: int,
        bad_token_sequences: Sequence[TokenIds] = (),
        streaming: bool = True,
        priority: int = 0,
        timeout_ms: int = 0,
        client_request_id: str = "",
    ) -> None:
        self._kept: list[object] = []
        self.struct = abi.Request()
        request = self.struct
        load_library().enginery_request_init(ctypes.byref(request), ctypes.sizeof(abi.Request))
        prompt = token_id_array("prompt_token_ids", prompt_token_ids)
        request.prompt_token_ids = self._int32s(prompt)
        request.num_prompt_tokens = prompt.size
        self._set_integer("max_tokens", params.max_tokens, 64)
        self._set_integer("min_tokens", params.min_tokens, 64)
        self._set_integer("num_return_sequences", params.n, 32)
        self._set_integer("priority", priority, 32)
        self._set_integer("timeout_ms", timeout_ms, 64)
        request.temperature = float(params.temperature)
        request.top_p = float(params.top_p)
        request.min_p = float(params.min_p)
        request.top_k = int(params.top_k or 0)
        request.seed = int(params.seed or 0)
        request.repetition_penalty = float(params.repetition_penalty)
        request.presence_penalty = float(params.presence_penalty)
        request.frequency_penalty = float(params.frequency_penalty)
        request.num_logprobs = -1 if params.logprobs is None else int(params.logprobs)
        request.ignore_eos = params.ignore_eos or params.end_id is not None
        request.return_prompt_logprobs = params.prompt_logprobs is not None
        request.num_prompt_logprobs = int(params.prompt_logprobs or 0)
        request.include_stop = (
            1 if params.include_stop_str_in_output else 2 if params.include_stop_token else 0
        )
        request.show_special_tokens = not params.skip_special_tokens
        request.streaming = streaming
        request.return_context_logits = params.return_context_logits
        request.return_generation_logits = params.return_generation_logits
        name = client_request_id.encode()
        self._kept.append(name)
        request.client_request_id = abi.StringView(name, len(name))
        self._set_stops(params)
        self._set_bad(params, bad_token_sequences)
        self._set_bias(params, vocab_size)

    def _set_integer(self, name: str, value: int, bits: int) -> None:
        """Sets a signed field; ctypes alone would drop the high bits without a word."""
        limit = 2 ** (bits - 1)
        if not -limit <= value < limit:
            raise InvalidArgumentError(f"{name} = {value}: does not fit into {bits} bits")
        setattr(self.struct, name, int(value))

    def _int32s(self, array: npt.NDArray[np.int32]) -> Any:
        self._kept.append(array)
        return array.ctypes.data_as(abi.int32_pointer)

    def _set_stops(self, params: SamplingParams) -> None:
        stop_ids = list(params.stop_token_ids)
        if params.end_id is not None and params.end_id >= 0:
            stop_ids.append(params.end_id)
        self.struct.stop_token_ids = self._int32s(token_id_array("stop_token_ids", stop_ids))
        self.struct.num_stop_token_ids = len(stop_ids)
        encoded = [text.encode() for text in params.stop]
        views = (abi.StringView * len(encoded))(
            *(abi.StringView(text, len(text)) for text in encoded)
        )
        self._kept += [encoded, views]
        self.struct.stop_strings = views
        self.struct.num_stop_strings = len(encoded)

    def _set_bad(self, params: SamplingParams, words: Sequence[TokenIds]) -> None:
        entries = [
            *(entry if isinstance(entry, Sequence) else [entry] for entry in params.bad_token_ids),
            *words,
        ]
        arrays = [token_id_array("bad_token_ids", entry) for entry in entries]
        sequences = (abi.TokenSequence * len(arrays))(
            *(abi.TokenSequence(self._int32s(array), array.size) for array in arrays)
        )
        self._kept.append(sequences)
        self.struct.bad_token_sequences = sequences
        self.struct.num_bad_token_sequences = len(arrays)

    def _set_bias(self, params: SamplingParams, vocab_size: int) -> None:
        biases = {int(token): float(bias) for token, bias in (params.logit_bias or {}).items()}
        if params.embedding_bias is not None:
            dense = np.asarray(params.embedding_bias, np.float32)
            if dense.size != vocab_size:
                raise InvalidArgumentError(
                    f"embedding_bias: has {dense.size} values; the vocabulary has {vocab_size}"
                )
            for token in np.flatnonzero(dense).tolist():
                biases[token] = biases.get(token, 0.0) + float(dense[token])
        array = (abi.LogitBias * len(biases))(*(abi.LogitBias(*entry) for entry in biases.items()))
        self._kept.append(array)
        self.struct.logit_bias = array
        self.struct.num_logit_bias = len(biases)
