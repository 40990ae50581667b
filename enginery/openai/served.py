# SPDX-License-Identifier: Apache-2.0
"""The engine that is served, as the front end needs it: limits, tokenizer, what tokens say."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from enginery.runtime.engine import Engine
from enginery.runtime.errors import (
    EngineryError,
    InvalidArgumentError,
    NotFoundError,
    TextTooLongError,
)
from enginery.runtime.tokenizer import Tokenizer

from .errors import ApiError
from .options import FrontEndOptions
from .token_texts import TokenTexts

T = TypeVar("T")

# Tokenizers give Python's lock back while they encode; more threads than this would take the cores
# from the model.
_NUM_TEXT_THREADS = 4


@dataclass(frozen=True)
class Limits:
    """What a request may ask of the engine; names as in the engine's config."""

    vocab_size: int
    max_seq_len: int
    max_input_len: int
    max_batch_size: int


class Served:
    """One engine under one name.

    Text is worked on in threads: a long prompt takes seconds, in which other streams go on.

    Args:
        name: what clients ask for.
        limits: of the engine.
        tokenizer: None: prompts are token ids, and there is no chat.
        texts: of the engine's tokens.
        probe: the prompt of a health check.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        tokenizer: Tokenizer | None,
        texts: TokenTexts,
        probe: int = 0,
    ) -> None:
        self.name = name
        self.created = int(time.time())
        self.limits = limits
        self.texts = texts
        self.probe = probe
        self._tokenizer = tokenizer
        self._threads = ThreadPoolExecutor(_NUM_TEXT_THREADS, "text")

    @classmethod
    def open(cls, options: FrontEndOptions) -> Served:
        """Reads what is needed from the engine directory and closes it again."""
        with Engine(options.engine_dir) as engine:
            info = engine.info
            texts = TokenTexts(engine.section("token_bytes"))
        limits = Limits(
            vocab_size=info.vocab_size,
            max_seq_len=info.max_seq_len,
            max_input_len=info.max_input_len,
            max_batch_size=options.max_batch_size or info.max_batch_size,
        )
        tokenizer = None
        with contextlib.suppress(NotFoundError):
            tokenizer = Tokenizer(
                options.tokenizer_dir or options.engine_dir, max_input_len=info.max_input_len
            )
        return cls(options.model_name, limits, tokenizer, texts, info.bos_token_id or 0)

    @property
    def has_chat(self) -> bool:
        """Whether there is a chat template."""
        return self._tokenizer is not None and self._tokenizer.has_chat_template

    def check_name(self, name: str | None) -> None:
        """Refuses any other model; None asks for this one.

        Raises:
            ApiError: with status 404.
        """
        if name not in (None, self.name):
            raise ApiError(
                404,
                f"model = {name!r}: there is no such model; there is {self.name!r}",
                param="model",
                code="model_not_found",
            )

    async def encode(
        self, text: str, add_special_tokens: bool = True, param: str = "prompt"
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any.
            add_special_tokens: as the tokenizer's files say.
            param: the field of the request that it comes from.

        Raises:
            ApiError: there is no tokenizer, or the text is too long for certain.
        """
        tokenizer = self._need_tokenizer(param)
        encode = functools.partial(
            tokenizer.encode, text, add_special_tokens=add_special_tokens, name=param
        )
        try:
            return await self._in_thread(encode)
        except TextTooLongError as error:
            code = "context_length_exceeded"
            raise ApiError(400, str(error), param=param, code=code) from error
        except InvalidArgumentError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from error

    async def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any],
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of a chat, written out by the checkpoint's template.

        Raises:
            ApiError: there is no template, or it refuses the messages.
        """
        tokenizer = self._need_tokenizer("messages")
        if not tokenizer.has_chat_template:
            raise ApiError(
                400,
                "messages: the checkpoint has no chat template; use /v1/completions",
                param="messages",
                code="no_chat_template",
            )

        write = functools.partial(
            tokenizer.apply_chat_template,
            messages,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        try:
            text = await self._in_thread(write)
        except EngineryError as error:
            raise ApiError(400, str(error), param="messages") from error
        except Exception as error:
            # Templates are programs, written for messages of a certain kind.
            reason = f"messages: the chat template fails: {type(error).__name__}: {error}"
            raise ApiError(400, reason, param="messages") from error
        return await self.encode(text, add_special_tokens=False, param="messages")

    async def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included.

        Raises:
            ApiError: there is no tokenizer.
        """
        tokenizer = self._need_tokenizer("tokens")
        return await self._in_thread(
            functools.partial(tokenizer.decode, token_ids, skip_special_tokens=False)
        )

    def check_token_ids(self, param: str, where: str, token_ids: Sequence[int]) -> None:
        """Refuses ids that are not in the vocabulary.

        Args:
            param: the field of the request.
            where: the same, more exactly.
            token_ids: what is checked.

        Raises:
            ApiError: names the first.
        """
        if not token_ids or (min(token_ids) >= 0 and max(token_ids) < self.limits.vocab_size):
            return
        for position, token_id in enumerate(token_ids):
            if not 0 <= token_id < self.limits.vocab_size:
                raise ApiError(
                    400,
                    f"{where}: token {position} is {token_id}; the vocabulary has 0.."
                    f"{self.limits.vocab_size - 1}",
                    param=param,
                    code="invalid_value",
                )

    def close(self) -> None:
        """Ends the threads when they have done what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _need_tokenizer(self, param: str) -> Tokenizer:
        if self._tokenizer is None:
            raise ApiError(
                400,
                f"{param}: the engine directory has no tokenizer; give prompts as token ids to "
                "/v1/completions, or start with --tokenizer_dir",
                param=param,
                code="no_tokenizer",
            )
        return self._tokenizer

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
