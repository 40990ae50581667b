# SPDX-License-Identifier: Apache-2.0
"""From a sound request to what Triton server is asked, within the limits of the engine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import ApiError
from .generation import Generation
from .prompts import Prompt
from .schemas import MAX_SEQUENCES, ChatRequest, CompletionRequest
from .served import Served

# OpenAI's own for /v1/completions; a chat goes on for as long as the engine can.
DEFAULT_MAX_TOKENS = 16

_SAME_NAME = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "min_tokens", "ignore_eos", "stop_token_ids",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One HTTP request, ready to be generated.

    Attributes:
        generations: one per prompt.
        prompt_texts: what the answers repeat, per prompt; empty: nothing.
        num_sequences: per prompt.
        streams: an answer whenever tokens come.
        includes_usage: a stream ends with the token counts.
        counts_continuously: and every chunk has those so far.
        num_logprobs: answers have log probabilities, and those of so many of the likeliest tokens;
            None: they have none.
    """

    generations: Sequence[Generation]
    prompt_texts: Sequence[str]
    num_sequences: int
    streams: bool
    includes_usage: bool
    counts_continuously: bool
    num_logprobs: int | None


async def completion_call(request: CompletionRequest, served: Served, request_id: str) -> Call:
    """Encodes the prompts and checks them.

    Args:
        request: of the client.
        served: what answers.
        request_id: what the model's log is to call it.

    Raises:
        ApiError: names the field, the value and the limit.
    """
    _check_n(request, served, len(request.prompt))
    adds = request.add_special_tokens is not False
    prompts = await _token_ids(request.prompt, served, adds)
    generations = []
    for index, token_ids in enumerate(prompts):
        where = "prompt" if len(prompts) == 1 else f"prompt {index}"
        served.check_token_ids("prompt", where, token_ids)
        room = _room(served, token_ids, "prompt", where)
        longest = _max_tokens(served, "max_tokens", request.max_tokens, room, where)
        max_tokens = min(DEFAULT_MAX_TOKENS, room) if longest is None else longest
        inputs = _inputs(request, served, max_tokens, request.logprobs)
        if request.logprobs is not None:
            # The token that ended it is listed too: lm-eval takes the last one for the one drawn.
            inputs["include_stop_token"] = True
            if request.echo:
                inputs["prompt_logprobs"] = request.logprobs
        generations.append(_generation(request, token_ids, inputs, request_id))
    texts = []
    if request.echo:
        texts = [
            prompt if isinstance(prompt, str) else served.texts.decode(prompt)
            for prompt in request.prompt
        ]
    return _call(request, generations, texts, request.logprobs)


async def chat_call(request: ChatRequest, served: Served, request_id: str) -> Call:
    """Writes the chat out by the checkpoint's template and checks it.

    Args:
        request: of the client.
        served: what answers.
        request_id: what the model's log is to call it.

    Raises:
        ApiError: names the field, the value and the limit.
    """
    _check_n(request, served, 1)
    variables = _variables(request.chat_template_kwargs)
    messages = [message.for_template() for message in request.messages]
    token_ids = await served.encode_chat(messages, variables)
    room = _room(served, token_ids, "messages", "messages")
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    longest = _max_tokens(served, name, getattr(request, name), room, "messages")
    num_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    inputs = _inputs(request, served, longest or room, num_logprobs)
    generation = _generation(request, token_ids, inputs, request_id)
    return _call(request, [generation], [], num_logprobs)


def _variables(given: dict[str, Any] | None) -> dict[str, Any]:
    """Variables of the chat template that are the client's to set.

    Raises:
        ApiError: one belongs to this front end.
    """
    for name in ("messages", "add_generation_prompt", "bos_token", "eos_token", "unk_token"):
        if name in (given or {}):
            raise ApiError(
                400,
                f"chat_template_kwargs: {name} is set by the server; leave it out",
                param="chat_template_kwargs",
            )
    return given or {}


async def tokens_of_chat(
    messages: Sequence[Any], given: dict[str, Any] | None, opens_turn: bool, served: Served
) -> list[int]:
    """Token ids of a chat, for /tokenize."""
    written = [message.for_template() for message in messages]
    return await served.encode_chat(written, _variables(given), opens_turn)


async def _token_ids(
    prompts: Sequence[Prompt], served: Served, add_special_tokens: bool
) -> list[list[int]]:
    given = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if len(given) == len(prompts):  # in this turn of the event loop
        return given

    async def encoded(prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return await served.encode(prompt, add_special_tokens)
        return prompt

    return await asyncio.gather(*map(encoded, prompts))


def _check_n(request: CompletionRequest | ChatRequest, served: Served, num_prompts: int) -> None:
    limit = served.limits.max_batch_size
    n = request.n or 1
    if n > limit:
        raise ApiError(400, f"n = {n}: at most {limit}, the engine's max_batch_size", param="n")
    if n * num_prompts > MAX_SEQUENCES:
        raise ApiError(
            400, f"n = {n}: with {num_prompts} prompts at most {MAX_SEQUENCES} in all", param="n"
        )


def _room(served: Served, token_ids: Sequence[int], param: str, where: str) -> int:
    """New tokens that fit behind the prompt; at least 1."""
    limits = served.limits
    longest = min(limits.max_input_len, limits.max_seq_len - 1)
    if not token_ids:
        raise ApiError(400, f"{where}: has no tokens", param=param)
    if len(token_ids) > longest:
        raise ApiError(
            400,
            f"{where}: has {len(token_ids)} tokens; at most {longest} (max_input_len "
            f"{limits.max_input_len}, max_seq_len {limits.max_seq_len})",
            param=param,
            code="context_length_exceeded",
        )
    return limits.max_seq_len - len(token_ids)


def _max_tokens(served: Served, name: str, value: int | None, room: int, where: str) -> int | None:
    if value is not None and value > room:
        limits = served.limits
        raise ApiError(
            400,
            f"{name} = {value}: at most {room}: {where} has {limits.max_seq_len - room} tokens and "
            f"the engine's max_seq_len is {limits.max_seq_len}",
            param=name,
            code="context_length_exceeded",
        )
    return value


def _inputs(
    request: CompletionRequest | ChatRequest,
    served: Served,
    max_tokens: int,
    num_logprobs: int | None,
) -> dict[str, Any]:
    bias = request.logit_bias or {}
    served.check_token_ids("logit_bias", "logit_bias", [*bias])
    inputs = {name: getattr(request, name) for name in _SAME_NAME}
    inputs["max_tokens"] = max_tokens
    inputs["logprobs"] = num_logprobs
    inputs["logit_bias_ids"] = [*bias]
    inputs["logit_bias_values"] = [*bias.values()]
    inputs["stop_words"] = request.stop
    # 0 is all tokens to the runtime, and so is -1 to clients of vLLM.
    inputs["top_k"] = 0 if request.top_k == -1 else request.top_k
    # Without a seed OpenAI's clients expect another text each time, the runtime gives the same.
    inputs["seed"] = secrets.randbits(64) if request.seed is None else request.seed
    return {name: value for name, value in inputs.items() if value not in (None, [])}


def _generation(
    request: CompletionRequest | ChatRequest,
    token_ids: list[int],
    inputs: dict[str, Any],
    request_id: str,
) -> Generation:
    return Generation(token_ids, request.n or 1, inputs, bool(request.stream), request_id)


def _call(
    request: CompletionRequest | ChatRequest,
    generations: Sequence[Generation],
    prompt_texts: Sequence[str],
    num_logprobs: int | None,
) -> Call:
    return Call(
        generations=generations,
        prompt_texts=prompt_texts,
        num_sequences=request.n or 1,
        streams=bool(request.stream),
        includes_usage=request.includes_usage,
        counts_continuously=request.counts_continuously,
        num_logprobs=num_logprobs,
    )
