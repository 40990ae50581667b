# SPDX-License-Identifier: Apache-2.0
"""The front end's application without servers: a model that answers by rule, and ASGI calls."""

from __future__ import annotations

import asyncio
import json
import string
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from enginery.builder.engine.token_bytes import encode_token_bytes
from enginery.builder.tokenizer.vocabulary import TokenText
from enginery.openai.app import create_app
from enginery.openai.errors import ApiError
from enginery.openai.generation import Cancel, Generation, Piece, Receiver, TokenLogprob, Usage
from enginery.openai.options import FrontEndOptions
from enginery.openai.served import Limits, Served
from enginery.openai.token_texts import TokenTexts
from enginery.openai.tracing import Tracing
from enginery.runtime.tokenizer import Tokenizer

from .tokenizer import BOS_TOKEN_ID, SPECIAL_TOKENS, TOKENIZER_VOCAB_SIZE, write_tiny_tokenizer

MODEL = "tiny"
LIMITS = Limits(vocab_size=TOKENIZER_VOCAB_SIZE, max_seq_len=64, max_input_len=48, max_batch_size=4)
OPTIONS = FrontEndOptions("", MODEL, "", "", LIMITS.max_batch_size)
DEADLINE_S = 60

T = TypeVar("T")


@dataclass
class FakeModel:
    """Answers each sequence with the letters "abc...", one per token, as many as were asked for.

    Token `position` has the log probability `-(position + 1) / 2`; the likeliest tokens are those
    of "zyx...", with 0, -1, -2 ...

    Attributes:
        error: raised in place of token number `error_at` of a sequence.
        stalls_at: the token before which it waits for ever; None: it does not.
    """

    error: ApiError | None = None
    error_at: int = 0
    stalls_at: int | None = None
    is_up: bool = True
    asked: list[Generation] = field(default_factory=list)
    num_open: int = 0
    num_cancelled: int = 0

    async def start(self, generation: Generation, receiver: Receiver) -> Cancel:
        self.asked.append(generation)
        self.num_open += 1

        async def run() -> None:
            error: BaseException | None = None
            try:
                async for piece in self.generate(generation):
                    receiver.on_piece(piece)
            except ApiError as caught:
                error = caught
            self.num_open -= 1
            receiver.on_end(error)

        def cancel() -> None:
            if not task.done():
                self.num_open -= 1
                self.num_cancelled += 1
                task.cancel()

        task = asyncio.create_task(run())
        return cancel

    async def generate(self, generation: Generation) -> AsyncIterator[Piece]:
        longest = generation.inputs["max_tokens"]
        for position in range(max(1, longest)):
            await asyncio.sleep(0)
            if position == self.stalls_at:
                await asyncio.Event().wait()
            if self.error is not None and position == self.error_at:
                raise self.error
            is_last = position >= longest - 1
            letters = string.ascii_lowercase[position : min(position + 1, longest)]
            of_prompt = prompt_logprobs_of(generation) if position == 0 else None
            for index in range(generation.num_sequences):
                yield Piece(
                    sequence_index=index,
                    text=letters,
                    token_ids=tuple(letters.encode()),
                    logprobs=logprobs_of(generation, "logprobs", position, len(letters)),
                    prompt_logprobs=of_prompt if index == 0 else None,
                    finish_reason="length" if is_last else "",
                    usage=Usage(len(generation.token_ids), longest, 1, 1) if is_last else None,
                )

    async def is_ready(self) -> bool:
        return self.is_up

    async def metrics(self) -> str:
        return "# TYPE nv_example gauge\nnv_example 3.0\n"

    async def close(self) -> None:
        pass


def logprobs_of(
    generation: Generation, name: str, first: int, num_tokens: int
) -> tuple[TokenLogprob, ...]:
    """Those that `FakeModel` gives to consecutive tokens where the input `name` asks for them."""
    num_logprobs = generation.inputs.get(name)
    if num_logprobs is None:
        return ()
    top = tuple((ord("z") - rank, float(-rank)) for rank in range(num_logprobs))
    return tuple(TokenLogprob(-0.5 * (first + i + 1), top) for i in range(num_tokens))


def prompt_logprobs_of(generation: Generation) -> tuple[TokenLogprob, ...] | None:
    """Those of the prompt."""
    if "prompt_logprobs" not in generation.inputs:
        return None
    return logprobs_of(generation, "prompt_logprobs", 1, len(generation.token_ids) - 1)


@dataclass(frozen=True)
class Answered:
    """What an ASGI application sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, in OpenAI's shape."""
        assert set(self.json) == {"error"}, self.body
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        """The JSON of each event of a stream, whose framing is checked on the way."""
        frames = self.body.decode().split("\n\n")
        assert frames.pop() == ""
        assert frames.pop() == "data: [DONE]"
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
        return [json.loads(frame.removeprefix("data: ")) for frame in frames]


class Client:
    """Calls the application as an HTTP server would.

    Args:
        folder: where the tokenizer of the tiny checkpoints is written.
        model: answers.
        has_tokenizer: whether text is understood.
        tracing: makes spans of requests.
        options: of the front end, other than the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        model: FakeModel,
        *,
        has_tokenizer: bool = True,
        tracing: Tracing | None = None,
        **options: Any,
    ) -> None:
        tokenizer = None
        if has_tokenizer:
            write_tiny_tokenizer(folder, adds_bos=True)
            tokenizer = Tokenizer(folder, max_input_len=LIMITS.max_input_len)
        self.model = model
        self.served = Served(MODEL, LIMITS, tokenizer, token_texts(), BOS_TOKEN_ID)
        self.app = create_app(
            FrontEndOptions(**{**OPTIONS.__dict__, **options}), model, self.served, tracing
        )

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answered:
        return self.call("GET", path, b"", headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answered:
        return run(self.apost(path, body, headers))

    async def apost(
        self, path: str, body: Any, headers: Mapping[str, str] | None = None
    ) -> Answered:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        typed = {"content-type": "application/json", **(headers or {})}
        return await self._call("POST", path, raw, typed, None)

    def call(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> Answered:
        return run(self._call(method, path, body, headers or {}, None))

    def post_and_leave(self, path: str, body: Any, after: Callable[[list[Any]], bool]) -> bytes:
        """Posts, and leaves when `after` says so of the messages so far; returns the body."""
        raw = json.dumps(body).encode()
        headers = {"content-type": "application/json"}
        return run(self._call("POST", path, raw, headers, after)).body

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        leaves: Callable[[list[Any]], bool] | None,
    ) -> Answered:
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        has_left = asyncio.Event()
        sent: list[Any] = []

        async def receive() -> Any:
            if requests:
                return requests.pop()
            while leaves is None or not leaves(sent):
                if leaves is None:
                    await has_left.wait()
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            for _ in range(10):  # whoever waits for the client to leave has its turn
                await asyncio.sleep(0)

        raw_headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
            "headers": raw_headers, "scheme": "http", "server": ("test", 80), "client": None,
        }  # fmt: skip
        await self.app(scope, receive, send)
        # Here and not after the loop, whose end cancels whatever was forgotten.
        assert self.model.num_open == 0, "a generation goes on when its request has ended"
        start: dict[str, Any] = sent[0] if sent else {"status": 0, "headers": []}
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answered(start["status"], found, body_of(sent))


def token_texts() -> TokenTexts:
    """Of the tiny checkpoints' tokenizer; merges are left without text."""
    texts = [TokenText(bytes([i])) for i in range(256)]
    texts += [TokenText(b"") for _ in range(BOS_TOKEN_ID - 256)]
    texts += [TokenText(token.encode(), is_special=True) for token in SPECIAL_TOKENS]
    return TokenTexts(np.frombuffer(encode_token_bytes(texts), np.uint8))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs it in a loop of its own; fails when it hangs."""
    return asyncio.run(asyncio.wait_for(work, DEADLINE_S))


def body_of(sent: list[Any]) -> bytes:
    """The body in ASGI's messages."""
    return b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
