# SPDX-License-Identifier: Apache-2.0
"""Text to token ids with an engine directory's own tokenizer files.

The way back is not here: the runtime's detokeniser gives text with the tokens, from the engine's
`token_bytes`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .errors import InvalidArgumentError, NotFoundError, TextTooLongError
from .text_bound import TextBound

# `encode` keeps the interpreter's lock, all threads of the process stand still: a megabyte of text
# takes it for a second or more. A batch is encoded without it.
_LOCKED_CHARACTERS = 1 << 12

Message = Mapping[str, Any]
"""One turn of a chat: {"role": "user", "content": "..."} and what the template reads besides."""


class Tokenizer:
    """A Hugging Face `tokenizer.json` and the chat template that came with it.

    Args:
        directory: has `tokenizer.json`, and `tokenizer_config.json` or `chat_template.jinja` when
            there is a chat template.
        max_input_len: refuses texts that are longer for certain before they are encoded; a text of
            50 MB takes many seconds. None: encodes all.

    Raises:
        NotFoundError: there is no `tokenizer.json`.
        InvalidArgumentError: a file is not what its name says.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, max_input_len: int | None = None
    ) -> None:
        import tokenizers  # a second's work that token ids do not need

        self.directory = Path(directory)
        path = self.directory / "tokenizer.json"
        if not path.is_file():
            raise NotFoundError(
                f"tokenizer: {path} is not there; prompts can only be given as token ids, or name "
                "a directory that has one with tokenizer="
            )
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise InvalidArgumentError(f"tokenizer: {path}: {error}") from error
        # A file may say how to pad and cut; neither may happen to a prompt unasked.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_input_len = max_input_len
        self._config = _read_config(self.directory / "tokenizer_config.json")

    @classmethod
    def from_directory(cls, directory: str | os.PathLike[str]) -> Self:
        """The same as `Tokenizer(directory)`."""
        return cls(directory)

    def encode(
        self, text: str, *, add_special_tokens: bool = True, name: str = "prompt"
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            text: any text; special tokens written out in it become themselves.
            add_special_tokens: adds what the tokenizer's post-processor adds, such as BOS.
            name: of the text, for messages.

        Raises:
            InvalidArgumentError: the text has lone surrogates, which are no characters.
            TextTooLongError: it has more than `max_input_len` tokens.
        """
        try:
            num_bytes = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"{name}: character {error.start} is {text[error.start]!r}: a lone surrogate is no "
                "character; decode the text with errors='replace' where it comes from"
            ) from error
        limit = self._max_input_len
        # A token has a byte or more.
        if limit is not None and num_bytes > limit:
            least = self._bound.min_tokens(text, num_bytes)
            if least > limit:
                raise TextTooLongError(
                    f"{name}: has {num_bytes} bytes, so at least {least} tokens; at most {limit} "
                    "(max_input_len)"
                )
        if len(text) > _LOCKED_CHARACTERS:
            (encoding,) = self._tokenizer.encode_batch(
                [text], add_special_tokens=add_special_tokens
            )
        else:
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `token_ids` taken as a whole; output of the runtime has its text already."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens))

    def bad_token_sequences(self, words: Sequence[str]) -> list[list[int]]:
        """Tokens of words that must not appear: each as it begins a text and after a space."""
        sequences = []
        for word in words:
            for spelling in (word, f" {word}"):
                token_ids = self.encode(spelling, add_special_tokens=False)
                if token_ids and token_ids not in sequences:
                    sequences.append(token_ids)
        return sequences

    @property
    def has_chat_template(self) -> bool:
        """Whether the directory says how to write a chat as one text."""
        return self._chat_template is not None

    def apply_chat_template(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Writes a chat as the text that the model was trained on.

        The text has its special tokens written out: encode it with `add_special_tokens=False`.

        Args:
            messages: the turns, oldest first.
            add_generation_prompt: ends with the opening of the assistant's next turn.
            variables: further variables of the template, e.g. `tools`.

        Raises:
            NotFoundError: the directory has no chat template.
            InvalidArgumentError: the template refuses the messages, or is broken.
        """
        if self._chat_template is None:
            raise NotFoundError(
                f"chat template: neither {self.directory / 'chat_template.jinja'} nor "
                "tokenizer_config.json has one; give a prompt instead"
            )
        import jinja2

        special = {
            name: self._special_token(name) for name in ("bos_token", "eos_token", "unk_token")
        }
        try:
            template = _chat_environment().from_string(self._chat_template)
            text = template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                **special,
                **variables,
            )
        except jinja2.TemplateError as error:
            raise InvalidArgumentError(f"messages: the chat template says: {error}") from error
        return str(text)

    @functools.cached_property
    def _bound(self) -> TextBound:
        return TextBound(self._tokenizer)

    @functools.cached_property
    def _chat_template(self) -> str | None:
        path = self.directory / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        return template if isinstance(template, str) else None

    def _special_token(self, name: str) -> str:
        """The text of e.g. `bos_token`; templates expect "" where there is none."""
        value = self._config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else ""


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidArgumentError(f"tokenizer: {path}: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"tokenizer: {path}: is not a JSON object")
    return config


@functools.cache
def _chat_environment() -> Any:
    """The jinja2 dialect in which published chat templates are written.

    Templates come with checkpoints from anywhere, hence the sandbox.
    """
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def strftime_now(format_: str) -> str:
        import datetime

        return datetime.datetime.now().strftime(format_)

    def tojson(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment
