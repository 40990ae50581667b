# SPDX-License-Identifier: Apache-2.0
"""`postprocessing`: token ids become text."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError, NotFoundError
from enginery.runtime.tokenizer import Tokenizer

from ..responses import Tensors
from .options import TextOptions
from .requests import Arrays
from .text_step import TextStep
from .token_text import TokenBytes


class TritonPythonModel(TextStep):
    """Loaded by name by the Python backend."""

    special_tokens = "skip_special_tokens"

    def _open(self, options: TextOptions) -> None:
        tokenizer = None
        with contextlib.suppress(NotFoundError):
            tokenizer = Tokenizer(options.tokenizer_dir)
        with Engine(options.engine_dir) as engine:
            self._postprocessor = Postprocessor(
                TokenBytes(engine),
                engine.info.bos_token_id,
                tokenizer,
                options.with_special_tokens,
            )

    def _answer(self, _request: Any, arrays: Arrays) -> Tensors:
        return self._postprocessor.tensors(arrays)


class Postprocessor:
    """Makes the outputs of `postprocessing` from its inputs.

    Each call stands for itself: that no character falls between two responses of a stream is
    `tensorrt_llm`'s doing (CharacterGate).

    Args:
        token_bytes: of the engine.
        bos_token_id: of the engine.
        tokenizer: None: there is none.
        skips_special_tokens: whether texts leave them out.
    """

    def __init__(
        self,
        token_bytes: TokenBytes,
        bos_token_id: int | None,
        tokenizer: Tokenizer | None,
        skips_special_tokens: bool,
    ) -> None:
        self._token_bytes = token_bytes
        self._bos_token_id = bos_token_id
        self._tokenizer = tokenizer
        self._skips_special_tokens = skips_special_tokens

    def tensors(self, arrays: Arrays) -> Tensors:
        """The outputs, by name.

        Args:
            arrays: the inputs, each [rows, ...].

        Raises:
            InvalidArgumentError: names the input, what it is and what is accepted.
        """
        tokens, lengths = arrays["TOKENS_BATCH"], arrays["SEQUENCE_LENGTH"]
        if tokens.shape[:2] != lengths.shape:
            raise InvalidArgumentError(
                f"SEQUENCE_LENGTH: has shape {list(lengths.shape)}; TOKENS_BATCH has "
                f"{list(tokens.shape)}"
            )
        texts = []
        width = tokens.shape[2]
        for row, length in zip(
            tokens.reshape(lengths.size, width), lengths.reshape(-1), strict=True
        ):
            if not 0 <= length <= width:
                raise InvalidArgumentError(f"SEQUENCE_LENGTH: {length}: must be 0 .. {width}")
            texts.append(self._text(row[:length].tolist()))
        # One dimension, as TensorRT-LLM's clients expect it.
        return {"OUTPUT": np.asarray([text.encode() for text in texts], np.object_)}

    def _text(self, token_ids: list[int]) -> str:
        text = self._token_bytes.text(token_ids, skip_special_tokens=self._skips_special_tokens)
        if self._tokenizer is None or token_ids[:1] != [self._bos_token_id]:
            return text
        # A text from its beginning: some tokenizers write a space before it that is not its own.
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skips_special_tokens)
