# SPDX-License-Identifier: Apache-2.0
"""`enginery serve --openai` and the official client, over the real tritonserver."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from enginery.openai.tracing import SPAN_NAME
from enginery.runtime.llm import LLM
from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.metrics import KV_CACHE_BLOCKS
from tests.support.openai_server import KEY, MODEL, Serving, posted, serving
from tests.support.otlp import Collector, attributes, collector
from tests.support.triton import (
    DEADLINE_S,
    LASTING,
    build_lasting_engine,
    wait_until,
)

PROMPT = "In the beginning was the café"
CHAT: Any = [{"role": "user", "content": PROMPT}]
DRAWN: dict[str, Any] = {"temperature": 0.9, "seed": 20260714}
GREEDY: dict[str, Any] = {"temperature": 0.0}
NUM_STREAMS = 64
# More than wait at any time in the test with NUM_STREAMS.
MAX_QUEUE_SIZE = 80
ENDLESS: dict[str, Any] = {"extra_body": {"ignore_eos": True}}
LASTS: dict[str, Any] = {
    "prompt": LASTING["input_ids"],
    "max_tokens": LASTING["max_tokens"],
    **ENDLESS,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="module")
def traces() -> Iterator[Collector]:
    with pytest.MonkeyPatch.context() as patch, collector() as found:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found


@pytest.fixture(scope="module")
def server(engine: Path, traces: Collector, tmp_path_factory: Any) -> Iterator[Serving]:
    with checked(engine, traces, tmp_path_factory, "python") as running:
        yield running


@pytest.fixture(scope="module")
def native_server(engine: Path, traces: Collector, tmp_path_factory: Any) -> Iterator[Serving]:
    with checked(engine, traces, tmp_path_factory, "native") as running:
        yield running


@pytest.fixture(params=["server", "native_server"])
def either(request: pytest.FixtureRequest) -> Serving:
    """A server of each backend."""
    found: Serving = request.getfixturevalue(request.param)
    return found


@contextlib.contextmanager
def checked(
    engine: Path, traces: Collector, tmp_path_factory: pytest.TempPathFactory, backend: str
) -> Iterator[Serving]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"another-key\n\n{KEY}\n")
    options = {
        "max_queue_size": MAX_QUEUE_SIZE,
        "api_key_file": keys,
        "backend": backend,
        "otlp_traces_endpoint": traces.url,
    }
    with serving(engine, *(f"--{name}={value}" for name, value in options.items())) as running:
        yield running
        # All that the tests asked for has left nothing behind, and the server ends cleanly, when
        # what is in flight has ended.
        wait_until(running.is_idle, "nothing runs")
        body: dict[str, Any] = {**LASTS, "max_tokens": 3000}
        stream: Any = running.client().completions.create(
            model=MODEL, stream=True, stream_options={"include_usage": True}, **body
        )
        next(stream)
        running.process.terminate()
        *_, last = stream
        assert last.usage is not None
        assert last.usage.completion_tokens == body["max_tokens"]
        _, said = running.process.communicate(timeout=DEADLINE_S)
        assert (running.process.returncode, said) == (0, "")


@pytest.fixture(scope="module")
def llm(engine: Path) -> Iterator[LLM]:
    with LLM(engine) as opened:
        yield opened


def test_completion_is_that_of_the_runtime(either: Serving, llm: LLM) -> None:
    expected = llm.generate(PROMPT, SamplingParams(**DRAWN, max_tokens=30, n=3, stop=["e"]))
    found = either.client().completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=30, n=3, stop=["e"], **DRAWN
    )
    assert [choice.text for choice in found.choices] == [o.text for o in expected.outputs]
    reasons = [choice.finish_reason for choice in found.choices]
    assert reasons == [o.finish_reason for o in expected.outputs]
    assert "stop" in reasons
    assert found.usage is not None
    assert found.usage.prompt_tokens == len(expected.prompt_token_ids or ())
    assert found.usage.completion_tokens == sum(len(o.token_ids) for o in expected.outputs)


def test_parameters_of_other_servers(either: Serving, llm: LLM) -> None:
    options: dict[str, Any] = {
        "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 5,
        "stop_token_ids": [*range(0, 320, 7)], "ignore_eos": True,
    }  # fmt: skip
    prompt = [313, 1, 250, 99, 17]
    params = SamplingParams(**DRAWN, **options, max_tokens=40, presence_penalty=0.5)
    expected = llm.generate(prompt, params).outputs[0]
    found = either.client().completions.create(
        model=MODEL, prompt=prompt, max_tokens=40, presence_penalty=0.5, extra_body=options, **DRAWN
    )
    assert found.choices[0].text == expected.text
    assert found.choices[0].finish_reason == expected.finish_reason


def test_streams_are_the_whole_in_pieces(either: Serving) -> None:
    client = either.client()
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 60, "n": 2, **DRAWN, **ENDLESS}
    whole = client.completions.create(prompt=[PROMPT, "And"], **options)
    texts = dict.fromkeys(range(4), "")
    usage = None
    for chunk in client.completions.create(
        prompt=[PROMPT, "And"], stream=True, stream_options={"include_usage": True}, **options
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [*texts.values()] == [choice.text for choice in whole.choices]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 240


def test_chat(server: Serving, llm: LLM) -> None:
    expected = llm.chat(CHAT, SamplingParams(**GREEDY, max_tokens=20)).outputs[0]
    client = server.client()
    options: dict[str, Any] = {"model": MODEL, "messages": CHAT, **GREEDY}
    whole = client.chat.completions.create(max_completion_tokens=20, **options)
    assert whole.choices[0].message.content == expected.text
    # The answer goes back as the client's own object.
    messages = [*CHAT, whole.choices[0].message, *CHAT]
    again = client.chat.completions.create(
        model=MODEL, messages=messages, max_tokens=1, temperature=0
    )
    assert again.usage is not None
    assert whole.usage is not None
    assert again.usage.prompt_tokens > whole.usage.prompt_tokens

    async def streamed() -> str:
        async with server.async_client() as asynchronous:
            stream = await asynchronous.chat.completions.create(
                max_tokens=20, stream=True, **options
            )
            chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "length"
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert asyncio.run(streamed()) == expected.text


def test_logprobs_and_text_offsets(server: Serving, llm: LLM) -> None:
    params = SamplingParams(**DRAWN, max_tokens=50, logprobs=0)
    expected = llm.generate(PROMPT, params).outputs[0]
    assert expected.logprobs is not None
    pairs = zip(expected.logprobs, expected.token_ids, strict=True)
    drawn = [entry[token].logprob for entry, token in pairs]
    client = server.client()
    choice = client.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=50, logprobs=0, **DRAWN
    ).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs == pytest.approx(drawn, rel=1e-5)
    offsets = choice.logprobs.text_offset or []
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    for token, offset in zip(choice.logprobs.tokens or [], offsets, strict=True):
        if not token.startswith(("bytes:", "<|")):
            assert choice.text[offset:].startswith(token)
    chat = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_tokens=5, logprobs=True, **DRAWN
    ).choices[0]
    assert chat.logprobs is not None
    assert len(chat.logprobs.content or []) == 5


def test_likeliest_tokens_and_logprobs_of_the_prompt(server: Serving, llm: LLM) -> None:
    """As lm-eval asks for loglikelihoods: token ids, echo, and the likeliest token besides."""
    prompt = [313, 1, 250, 99, 17]
    params = SamplingParams(**GREEDY, max_tokens=1, logprobs=2, prompt_logprobs=2)
    expected = llm.generate(prompt, params)
    entries = [*(expected.prompt_logprobs or [])[1:], *(expected.outputs[0].logprobs or [])]
    known = [entry for entry in entries if entry is not None]
    own = [next(iter(entry.values())).logprob for entry in known]
    best = [max(value.logprob for value in entry.values()) for entry in known]
    client = server.client()
    options: dict[str, Any] = {
        "model": MODEL, "max_tokens": 1, "logprobs": 2, "echo": True, "n": 2, **GREEDY
    }  # fmt: skip
    whole = client.completions.create(prompt=[prompt, prompt], **options).choices
    assert len(whole) == 4
    for choice in whole:
        assert choice.logprobs is not None
        nothing, *log_probs = choice.logprobs.token_logprobs or []
        assert nothing is None
        assert log_probs == pytest.approx(own, rel=1e-5)
        top = (choice.logprobs.top_logprobs or [])[1:]
        assert [max(entry.values()) for entry in top] == pytest.approx(best, rel=1e-5)
        assert len(choice.logprobs.text_offset or []) == len(prompt) + 1
    parts: dict[int, list[Any]] = {index: [] for index in range(4)}
    for chunk in client.completions.create(prompt=[prompt, prompt], stream=True, **options):
        for part in chunk.choices:
            parts[part.index].append(part.logprobs)
    for choice in whole:
        assert choice.logprobs is not None
        for name, values in choice.logprobs.model_dump().items():
            found = [v for part in parts[choice.index] for v in getattr(part, name)]
            assert found == values, name
    scored = client.completions.create(prompt=prompt, **{**options, "max_tokens": 0, "n": 1})
    assert scored.usage is not None
    assert (scored.usage.completion_tokens, scored.choices[0].finish_reason) == (0, "length")
    assert scored.choices[0].logprobs is not None
    assert whole[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs == whole[0].logprobs.token_logprobs[:-1]


def test_end_token_is_listed(server: Serving, llm: LLM) -> None:
    token = llm.generate([5, 6], SamplingParams(**GREEDY, max_tokens=1)).outputs[0].token_ids[0]
    (choice,) = (
        server.client()
        .completions.create(
            model=MODEL, prompt=[5, 6], logprobs=0, extra_body={"stop_token_ids": [token]}, **GREEDY
        )
        .choices
    )
    assert (choice.text, choice.finish_reason) == ("", "stop")
    assert choice.logprobs is not None
    assert len(choice.logprobs.token_logprobs or []) == 1


def test_likeliest_tokens_of_a_chat(server: Serving, llm: LLM) -> None:
    params = SamplingParams(**GREEDY, max_tokens=4, logprobs=3)
    expected = llm.chat(CHAT, params).outputs[0].logprobs
    assert expected is not None
    client = server.client()
    options: dict[str, Any] = {
        "model": MODEL, "messages": CHAT, "max_tokens": 4, "logprobs": True, "top_logprobs": 3
    }  # fmt: skip
    (choice,) = client.chat.completions.create(**options, **GREEDY).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content or []
    for token, entry in zip(content, expected, strict=True):
        values = sorted((value.logprob for value in entry.values()), reverse=True)
        assert [other.logprob for other in token.top_logprobs] == pytest.approx(values, rel=1e-5)
        assert token.logprob == pytest.approx(values[0], rel=1e-5)
        assert token.top_logprobs[0].bytes == token.bytes
    stream = client.chat.completions.create(**options, **GREEDY, stream=True)
    logprobs = [chunk.choices[0].logprobs for chunk in stream]
    streamed = [token for part in logprobs if part for token in part.content or []]
    assert [token.model_dump() for token in streamed] == [t.model_dump() for t in content]


def test_logit_bias(server: Serving, llm: LLM) -> None:
    bias = {ord("q"): 100.0, ord("z"): -100.0}
    expected = llm.generate("x", SamplingParams(**GREEDY, max_tokens=5, logit_bias=bias)).outputs[0]
    found = server.client().completions.create(
        model=MODEL,
        prompt="x",
        max_tokens=5,
        logit_bias={str(token): int(value) for token, value in bias.items()},
        **GREEDY,
    )
    assert found.choices[0].text == expected.text == "q" * 5


def test_errors_of_the_client(server: Serving) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="x")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model=MODEL,
            messages=CHAT,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    assert tools.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as stops:  # which only the runtime can tell
        client.completions.create(model=MODEL, prompt="x", extra_body={"stop_token_ids": [320]})
    assert "stop_token_ids[0] is 320" in stops.value.message
    wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    assert [model.id for model in client.models.list()] == [MODEL]


def test_server_outlives_many_bad_requests(server: Serving) -> None:
    """Refused by the runtime, in streams that end with an error and nothing else."""
    bad: dict[str, Any] = {"prompt": [1], "extra_body": {"stop_token_ids": [320]}}

    async def ask(client: openai.AsyncOpenAI, index: int) -> None:
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model=MODEL, stream=index % 2 == 0, **bad)

    async def all_of_them() -> None:
        async with server.async_client() as client:
            for _ in range(8):
                await asyncio.gather(*(ask(client, index) for index in range(32)))

    asyncio.run(all_of_them())
    assert json.loads(server.get("/health/ready"))["status"] == "ready"


def test_health_page_and_metrics(server: Serving) -> None:
    assert json.loads(server.get("/health"))["status"] == "live"
    assert json.loads(server.get("/health/ready"))["status"] == "ready"
    assert len(json.loads(server.get("/health/generate"))["tokens"]) == 1
    assert "<!doctype html>" in server.get("/")
    families = list(text_string_to_metric_families(server.get("/metrics")))
    names = {family.name for family in families}
    assert {"enginery_openai_requests", "nv_inference_count", KV_CACHE_BLOCKS.name} <= names


def test_full_queue_is_429(server: Serving) -> None:
    async def fill() -> openai.RateLimitError:
        async with server.async_client() as client:
            tasks = [
                asyncio.create_task(
                    client.completions.create(model=MODEL, stream=True, timeout=None, **LASTS)
                )
                for _ in range(MAX_QUEUE_SIZE + 40)
            ]
            try:
                for done in asyncio.as_completed(tasks, timeout=DEADLINE_S):
                    try:
                        await done  # one of those that run
                    except openai.RateLimitError as error:
                        return error
                raise AssertionError("nothing was refused")
            finally:
                for task in tasks:
                    task.cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, openai.AsyncStream):
                        await result.close()

    refused = asyncio.run(fill())
    assert refused.code == "queue_full"
    assert int(refused.response.headers["retry-after"]) >= 1
    wait_until(server.is_idle, "those that ran and waited are cancelled")


@pytest.mark.parametrize("stream", [False, True])
def test_vanished_client_cancels_its_request(stream: bool, either: Serving) -> None:
    body = {"model": MODEL, "stream": stream, **LASTS}
    body |= body.pop("extra_body")

    async def vanish() -> None:
        writers = [(await posted(either, body))[1] for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: either.num_active() == 3, "all three run")
        for writer in writers:
            writer.transport.abort()

    asyncio.run(vanish())
    wait_until(either.is_idle, "they are cancelled")


def test_trace_of_a_request(either: Serving, traces: Collector) -> None:
    trace_id = os.urandom(16).hex()
    found = either.client().completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=30,
        extra_headers={"traceparent": f"00-{trace_id}-{'1' * 16}-01"},
        **ENDLESS,
    )

    def spans() -> dict[str, Any]:
        mine = [span for _, span in traces.spans if span.trace_id.hex() == trace_id]
        return {span.name: span for span in mine}

    wait_until(lambda: SPAN_NAME in spans(), "the collector has the span")
    children = spans()
    root = children.pop(SPAN_NAME)
    assert root.parent_span_id.hex() == "1" * 16
    phases = sorted(children.values(), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in phases] == ["encode", "queue", "prefill", "decode", "send"]
    times = [root.start_time_unix_nano, *(span.end_time_unix_nano for span in phases)]
    assert times == sorted(times)
    assert [span.start_time_unix_nano for span in phases] == times[:-1]
    assert times[-1] == root.end_time_unix_nano
    known = attributes(root.attributes)
    assert known["gen_ai.response.id"] == found.id
    assert known["gen_ai.usage.completion_tokens"] == 30


def test_many_streams_with_slow_and_vanishing_readers(server: Serving) -> None:
    """No stream that is read loses anything, whoever else reads slowly or goes away."""
    num_tokens = 60

    def options(index: int) -> dict[str, Any]:
        prompt = f"{PROMPT} {index}"
        return {"model": MODEL, "prompt": prompt, "max_tokens": num_tokens, "seed": index}

    client = server.client()
    expected = {
        i: client.completions.create(**options(i), **ENDLESS).choices[0].text for i in range(3)
    }

    async def read(index: int) -> str | None:
        if index % 3 == 2:
            reader, writer = await posted(
                server, {**options(index), "stream": True, "ignore_eos": True}
            )
            await reader.readuntil(b"data: ")
            writer.transport.abort()
            return None
        text, tokens = "", 0
        async with server.async_client() as asynchronous:
            stream = await asynchronous.completions.create(
                stream=True, stream_options={"include_usage": True}, **options(index), **ENDLESS
            )
            async for chunk in stream:
                if index % 3 == 1:
                    await asyncio.sleep(0.01)
                text += "".join(choice.text for choice in chunk.choices)
                tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        assert tokens == num_tokens
        return text

    async def all_of_them() -> list[str | None]:
        return await asyncio.gather(*map(read, range(NUM_STREAMS)))

    found = asyncio.run(all_of_them())
    assert found[:2] == [expected[0], expected[1]]
    assert sum(text is not None for text in found) == NUM_STREAMS - NUM_STREAMS // 3
    wait_until(server.is_idle, "all KV blocks are back")


def test_dead_front_end_is_told(engine: Path) -> None:
    with serving(engine) as running:
        os.kill(running.front_end_pid(), signal.SIGKILL)
        _, said = running.process.communicate(timeout=DEADLINE_S)
        assert running.process.returncode == 1
        assert "enginery serve: error: the OpenAI front end died" in said
