# SPDX-License-Identifier: Apache-2.0
"""From the inputs of `tensorrt_llm` to what the runtime takes: a request per row of the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.engine import EngineInfo
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.sampling_params import SamplingParams

from .refusals import refuse_unsupported
from .tensors import TENSORRT_LLM_INPUTS, InputSpec
from .token_text import TokenBytes
from .word_lists import read_word_list

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RowRequest:
    """One row of a request, ready for `Runtime.submit`."""

    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    end_token_ids: tuple[int, ...]
    """They end the output and are no part of it; stop words are."""
    is_streaming: bool
    repeats_prompt: bool
    returns_log_probs: bool
    returns_perf_metrics: bool
    returns_num_input_tokens: bool
    returns_num_output_tokens: bool


class RowReader:
    """Reads the requests of one model.

    Args:
        info: of the engine.
        token_bytes: of the engine.
        is_decoupled: whether a request may have several responses.
        excludes_input: `exclude_input_in_output` where a request does not say.
    """

    def __init__(
        self,
        info: EngineInfo,
        token_bytes: TokenBytes,
        *,
        is_decoupled: bool = True,
        excludes_input: bool = False,
    ) -> None:
        self._info = info
        self._token_bytes = token_bytes
        self._is_decoupled = is_decoupled
        self._excludes_input = excludes_input

    def read(self, arrays: Arrays) -> list[RowRequest]:
        """Reads and checks all rows; the engine's limits are checked by submit.

        Args:
            arrays: the inputs that the request has, by name, each with the batch dimension first.

        Raises:
            InvalidArgumentError: names the input, what it is and what is accepted.
        """
        refuse_unsupported(TENSORRT_LLM_INPUTS, arrays)
        if "input_ids" not in arrays:
            raise InvalidArgumentError("input_ids: is missing; it is the prompt")
        num_rows = arrays["input_ids"].shape[0]
        if num_rows == 0:
            raise InvalidArgumentError("input_ids: has no rows; give one at least")
        rows = [self._row(arrays, index) for index in range(num_rows)]
        if not self._is_decoupled:
            _check_one_response(rows)
        return rows

    def _row(self, arrays: Arrays, index: int) -> RowRequest:
        values = {
            spec.name: _value(spec, arrays.get(spec.name), index)
            for spec in TENSORRT_LLM_INPUTS
            if not spec.refusal
        }
        end_id = values["end_id"]
        own = self._info.eos_token_ids if end_id is None else (end_id,)
        excludes_input = values["exclude_input_in_output"]
        if excludes_input is None:
            excludes_input = self._excludes_input
        is_streaming = bool(values["streaming"])
        return RowRequest(
            prompt_token_ids=_prompt(values["input_ids"].tolist(), values["input_lengths"]),
            sampling_params=SamplingParams(
                **self._options(values),
                **self._stops(read_word_list("stop_words_list", _words(values, "stop_words_list"))),
                **_top(values["runtime_top_k"], values["runtime_top_p"]),
            ),
            end_token_ids=own,
            is_streaming=is_streaming,
            repeats_prompt=not excludes_input and not is_streaming,
            returns_log_probs=bool(values["return_log_probs"]),
            returns_perf_metrics=bool(values["return_perf_metrics"]),
            returns_num_input_tokens=bool(values["return_num_input_tokens"]),
            returns_num_output_tokens=bool(values["return_num_output_tokens"]),
        )

    def _options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {
            spec.option: values[spec.name]
            for spec in TENSORRT_LLM_INPUTS
            if spec.option is not None and values[spec.name] is not None
        }
        if "embedding_bias" in options and options["embedding_bias"].size == 0:
            del options["embedding_bias"]
        if values["end_id"] is not None:
            options["end_id"] = values["end_id"]
        if values["return_log_probs"]:
            options["logprobs"] = 0
        bad = read_word_list("bad_words_list", _words(values, "bad_words_list"))
        return {**options, "bad_token_ids": bad}

    def _stops(self, words: list[list[int]]) -> dict[str, Any]:
        """Stop words by their texts, which the model may spell with other tokens as well.

        Special tokens, and single ones that are no whole characters, are matched as ids.
        """
        texts, ids = [], []
        for word in words:
            for token_id in word:
                if not 0 <= token_id < self._info.vocab_size:
                    raise InvalidArgumentError(
                        f"stop_words_list: token id {token_id}: the vocabulary has "
                        f"{self._info.vocab_size}"
                    )
            text = _whole_text(b"".join(map(self._token_bytes.of, word)))
            if len(word) == 1 and (text is None or self._token_bytes.is_special(word[0])):
                ids.append(word[0])
            elif text is None:
                raise InvalidArgumentError(
                    f"stop_words_list: {word}: these tokens together are no text; give a word of "
                    "whole characters, or one token"
                )
            else:
                texts.append(text)
        return {
            "stop": texts,
            "stop_token_ids": ids,
            "include_stop_str_in_output": True,
            # Of the texts that stop words are looked for in; no other text is used here.
            "skip_special_tokens": False,
        }


def _check_one_response(rows: list[RowRequest]) -> None:
    problems = []
    if len(rows) > 1:
        problems.append(f"input_ids: has {len(rows)} rows; give one")
    if any(row.is_streaming for row in rows):
        problems.append("streaming = True: needs several responses")
    if any(row.sampling_params.n > 1 for row in rows):
        problems.append("num_return_sequences: must be 1")
    if problems:
        raise InvalidArgumentError.from_problems(
            "the model is served with decoupled_mode false, one response a request", problems
        )


def _prompt(token_ids: list[int], length: int) -> list[int]:
    if not 0 <= length <= len(token_ids):
        raise InvalidArgumentError(
            f"input_lengths = {length}: input_ids has {len(token_ids)} tokens in the row"
        )
    return token_ids[:length]


def _top(top_k: int | None, top_p: float | None) -> dict[str, Any]:
    """TensorRT-LLM's reading of the two: neither is greedy, top-k alone draws among all k."""
    top_p = None if top_p is None or top_p <= 0 else top_p
    if not top_k and top_p is None:
        top_k = 1
    return {"top_k": top_k, "top_p": 1.0 if top_p is None else top_p}


def _words(values: Mapping[str, Any], name: str) -> npt.NDArray[np.int32]:
    array: npt.NDArray[np.int32] | None = values[name]
    return np.empty((2, 0), np.int32) if array is None else array


def _whole_text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8") or None
    except UnicodeDecodeError:
        return None


def _value(spec: InputSpec, array: npt.NDArray[Any] | None, row: int) -> Any:
    """A row of an input: an array, or a scalar where it has one element; None when not given."""
    if array is None:
        return None
    value = array[row]
    if spec.dims != (1,):
        return value
    items = value.reshape(-1).tolist()
    if len(items) != 1:
        raise InvalidArgumentError(f"{spec.name}: has {len(items)} values a row; give one")
    return items[0]
