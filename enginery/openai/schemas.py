# SPDX-License-Identifier: Apache-2.0
"""Requests as clients send them: which fields there are, their types and ranges.

Nothing is converted: a number that is a text is refused. What depends on the engine (vocabulary,
lengths) is checked by `calls`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from enginery.runtime.options import Unsupported, option_problems
from enginery.runtime.sampling_params import MAX_LOGPROBS

from . import unsupported
from .errors import ApiError
from .logit_bias import LOGIT_BIAS_SCHEMA, read_logit_bias
from .prompts import INT32_MAX, PROMPT_SCHEMA, TEXT_SCHEMA, Prompt, characters, read_prompts

MAX_SEQUENCES = 128
MAX_STOPS = 16
MAX_MESSAGES = 4096


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(characters)]
SomeText = Annotated[str, Field(min_length=1), AfterValidator(characters)]


TopLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None
LogitBias = Annotated[
    dict[int, float] | None, PlainValidator(read_logit_bias), WithJsonSchema(LOGIT_BIAS_SCHEMA)
]
_STOP_SCHEMA = {
    "anyOf": [
        TEXT_SCHEMA,
        {"type": "array", "maxItems": MAX_STOPS, "items": TEXT_SCHEMA},
        {"type": "null"},
    ]
}
Stops = Annotated[
    Annotated[list[SomeText], Field(max_length=MAX_STOPS)] | None,
    BeforeValidator(_as_list),
    WithJsonSchema(_STOP_SCHEMA),
]


class _Schema(BaseModel):
    """Refuses fields that it lacks, by name and reason, before it looks at any other."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    unsupported: ClassVar[Unsupported] = {}
    where: ClassVar[str] = ""
    """The field of the request that holds this one; empty: it is the request."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        foreign = {name: value for name, value in values.items() if name not in known}
        problems = []
        for name, value in foreign.items():
            problems += option_problems(known, {name: value}, cls.unsupported)
        if problems:
            where = f"{cls.where}: " if cls.where else ""
            raise ApiError(
                400,
                where + "; ".join(map(_short, problems)),
                param=cls.where or (_short(next(iter(foreign))) if len(foreign) == 1 else None),
                code="unsupported_parameter",
            )
        return {name: value for name, value in values.items() if name in known}


def _short(text: str) -> str:
    """Names and values are the client's, and as long as its body."""
    return text if len(text) < 400 else f"{text[:150]} ... {text[-150:]}"


class StreamOptions(_Schema):
    """What a stream has besides tokens."""

    where: ClassVar[str] = "stream_options"

    include_usage: bool = False
    continuous_usage_stats: bool = Field(False, description="token counts in every chunk")

    @model_validator(mode="after")
    def _check_pairs(self) -> StreamOptions:
        if self.continuous_usage_stats and not self.include_usage:
            raise ValueError("continuous_usage_stats: set include_usage to true or leave it out")
        return self


class _Generate(_Schema):
    """Fields that both kinds of completion have."""

    model: str
    n: int | None = Field(None, ge=1, le=MAX_SEQUENCES)
    stop: Stops = None
    stop_token_ids: list[Annotated[int, Field(ge=0, le=INT32_MAX)]] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=INT32_MAX)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: LogitBias = None
    seed: int | None = Field(None, ge=0, le=2**64 - 1)
    max_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    min_tokens: int | None = Field(None, ge=0, le=INT32_MAX)
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="has no effect")
    safety_identifier: str | None = Field(None, description="has no effect")
    prompt_cache_key: str | None = Field(None, description="has no effect")

    @model_validator(mode="after")
    def _check_stream_options(self) -> _Generate:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: is for streams; set stream to true or leave it out")
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def counts_continuously(self) -> bool:
        """Whether every chunk has the token counts so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionRequest(_Generate):
    """POST /v1/completions."""

    unsupported: ClassVar[Unsupported] = unsupported.COMPLETIONS

    prompt: Annotated[list[Prompt], PlainValidator(read_prompts), WithJsonSchema(PROMPT_SCHEMA)]
    max_tokens: int | None = Field(None, ge=0, le=INT32_MAX)
    echo: bool | None = None
    logprobs: TopLogprobs = None
    add_special_tokens: bool | None = None


class TextPart(_Schema):
    """A piece of a message."""

    unsupported: ClassVar[Unsupported] = unsupported.PART
    where: ClassVar[str] = "messages"

    type: Literal["text"]
    text: Text


class ChatMessage(_Schema):
    """One turn; which roles there are is the chat template's to say."""

    unsupported: ClassVar[Unsupported] = unsupported.MESSAGE
    where: ClassVar[str] = "messages"

    role: Text
    content: Text | list[TextPart] | None = None
    name: Text | None = None

    def for_template(self) -> dict[str, Any]:
        """What the chat template reads."""
        content = self.content or ""
        if isinstance(content, list):
            content = "\n".join(part.text for part in content)
        named = {} if self.name is None else {"name": self.name}
        return {"role": self.role, "content": content, **named}


class ChatRequest(_Generate):
    """POST /v1/chat/completions."""

    unsupported: ClassVar[Unsupported] = unsupported.CHAT

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=INT32_MAX)
    logprobs: bool | None = None
    top_logprobs: TopLogprobs = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_pairs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: is for logprobs; set logprobs to true or leave it out")
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError(
                f"max_tokens = {self.max_tokens}, max_completion_tokens = "
                f"{self.max_completion_tokens}: two names of one thing; give one of them"
            )
        return self


class TokenizeRequest(_Schema):
    """POST /tokenize: a text or a chat."""

    model: str | None = None
    prompt: SomeText | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("prompt, messages: give one of them")
        return self


class DetokenizeRequest(_Schema):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=INT32_MAX)]]
