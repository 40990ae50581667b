# SPDX-License-Identifier: Apache-2.0
"""`preprocessing`: a prompt and words as texts become token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.runtime.engine import Engine, EngineInfo
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.tokenizer import Tokenizer

from ..responses import Tensors
from .options import TextOptions
from .refusals import refuse_parameters, refuse_unsupported
from .requests import Arrays
from .tensors import PREPROCESSING_INPUTS
from .text_step import TextStep
from .word_lists import write_word_lists

_QUERY = "QUERY (text_input of the ensemble)"


class TritonPythonModel(TextStep):
    """Loaded by name by the Python backend."""

    special_tokens = "add_special_tokens"

    def _open(self, options: TextOptions) -> None:
        with Engine(options.engine_dir) as engine:
            info = engine.info
        tokenizer = Tokenizer(options.tokenizer_dir, max_input_len=info.max_input_len)
        self._preprocessor = Preprocessor(tokenizer, info, options.with_special_tokens)

    def _answer(self, request: Any, arrays: Arrays) -> Tensors:
        refuse_parameters(request.parameters())
        return self._preprocessor.tensors(arrays)


class Preprocessor:
    """Makes the outputs of `preprocessing` from its inputs.

    Args:
        tokenizer: of the engine.
        info: of the engine.
        adds_special_tokens: whether prompts get the tokenizer's own, such as BOS.
    """

    def __init__(self, tokenizer: Tokenizer, info: EngineInfo, adds_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._info = info
        self._adds_special_tokens = adds_special_tokens

    def tensors(self, arrays: Arrays) -> Tensors:
        """The outputs, by name.

        Args:
            arrays: the inputs, each [rows, ...].

        Raises:
            InvalidArgumentError: names the input, what it is and what is accepted.
        """
        refuse_unsupported(PREPROCESSING_INPUTS, arrays)
        queries = [texts[0] for texts in _texts("QUERY", arrays["QUERY"])]
        if "" in queries:
            raise InvalidArgumentError(f"{_QUERY}: is empty; a prompt has at least one character")
        end_id, pad_id = self._end_and_pad()
        end_ids = arrays.get("END_ID", np.full((len(queries), 1), end_id, np.int32))
        pad_ids = arrays.get("PAD_ID", np.full((len(queries), 1), pad_id, np.int32))
        prompts = [
            self._tokenizer.encode(text, add_special_tokens=self._adds_special_tokens, name=_QUERY)
            for text in queries
        ]
        return {
            "INPUT_ID": _padded(prompts, pad_ids.reshape(-1).tolist()),
            "REQUEST_INPUT_LEN": np.asarray([[len(prompt)] for prompt in prompts], np.int32),
            "DECODER_INPUT_ID": np.empty((len(queries), 0), np.int32),
            "REQUEST_DECODER_INPUT_LEN": np.zeros((len(queries), 1), np.int32),
            "BAD_WORDS_IDS": self._word_lists(arrays, "BAD_WORDS_DICT", len(queries)),
            "STOP_WORDS_IDS": self._word_lists(arrays, "STOP_WORDS_DICT", len(queries)),
            "EMBEDDING_BIAS": self._embedding_bias(arrays, len(queries)),
            "REQUEST_OUTPUT_LEN": arrays["REQUEST_OUTPUT_LEN"],
            "OUT_END_ID": end_ids,
            "OUT_PAD_ID": pad_ids,
        }

    def _end_and_pad(self) -> tuple[int, int]:
        info = self._info
        end_id = info.eos_token_ids[0] if info.eos_token_ids else -1
        pad_id = info.pad_token_id
        return end_id, max(0, end_id) if pad_id is None else pad_id

    def _encode_word(self, word: str) -> list[int]:
        return self._tokenizer.encode(word, add_special_tokens=False)

    def _word_lists(self, arrays: Arrays, name: str, num_rows: int) -> npt.NDArray[np.int32]:
        if name not in arrays:
            return np.empty((num_rows, 2, 0), np.int32)
        return write_word_lists(
            [list(map(self._encode_word, words)) for words in _texts(name, arrays[name])]
        )

    def _embedding_bias(self, arrays: Arrays, num_rows: int) -> npt.NDArray[np.float32]:
        names = ("EMBEDDING_BIAS_WORDS", "EMBEDDING_BIAS_WEIGHTS")
        given = [name for name in names if name in arrays]
        if not given:
            return np.empty((num_rows, 0), np.float32)
        if len(given) == 1 or arrays[names[0]].shape != arrays[names[1]].shape:
            raise InvalidArgumentError(
                f"{names[0]}, {names[1]}: give both, with a weight for each word"
            )
        bias = np.zeros((num_rows, self._info.vocab_size), np.float32)
        for row, words, weights in zip(
            bias, _texts(names[0], arrays[names[0]]), arrays[names[1]], strict=True
        ):
            for word, weight in zip(words, weights.tolist(), strict=True):
                for token_id in self._encode_word(word):
                    row[token_id] += weight
        return bias


def _texts(name: str, array: npt.NDArray[Any]) -> list[list[str]]:
    """Rows of texts; Triton server hands over bytes."""
    try:
        return [
            [item if isinstance(item, str) else item.decode("utf-8") for item in row.reshape(-1)]
            for row in array
        ]
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{name}: is not UTF-8: {error}") from None


def _padded(rows: Sequence[Sequence[int]], pad_ids: Sequence[int]) -> npt.NDArray[np.int32]:
    array = np.empty((len(rows), max(map(len, rows))), np.int32)
    for target, row, pad_id in zip(array, rows, pad_ids, strict=True):
        target[: len(row)] = row
        target[len(row) :] = pad_id
    return array
