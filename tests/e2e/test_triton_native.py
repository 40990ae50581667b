# SPDX-License-Identifier: Apache-2.0
"""The real tritonserver with the native backend: the same answers as the Python backend's."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.metrics import REQUESTS, read_gauge
from enginery.triton_backend.native_backend import NativeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import ServerOptions, TritonServer
from tests.support.metrics_page import assert_counts_what_is_served
from tests.support.triton import (
    DEADLINE_S,
    LASTING,
    MODEL,
    GrpcStream,
    Response,
    assert_timeouts_end_a_request,
    build_lasting_engine,
    grpc_stream,
    http_generate,
    http_socket,
    http_stream,
    metrics,
    num_active,
    num_free_blocks,
    reset,
    serving,
    tensors,
    wait_until,
)

PROMPT = [313, 1, 250, 99, 17]
KV_CACHE_BYTES = 1 << 30
MAX_BATCH_SIZE = 16
MAX_QUEUE_SIZE = 20
STREAMING = {**LASTING, "stream": True}
GREEDY = {"temperature": 0.0}
DRAWN: dict[str, Any] = {"temperature": 0.9, "seed": 20260714}

# What both backends must answer alike, token for token.
SAME: dict[str, dict[str, Any]] = {
    "defaults": {"seed": 3},
    "greedy": GREEDY,
    "seed": {"seed": 2**64 - 1},
    "top": {**DRAWN, "top_k": 30, "top_p": 0.75, "min_p": 0.01},
    "penalties": {
        **GREEDY,
        "repetition_penalty": 1.5,
        "presence_penalty": 2.5,
        "frequency_penalty": 1.25,
    },
    "stop_token_ids": {**DRAWN, "stop_token_ids": [*range(0, 320, 2)], "min_tokens": 11},
    "stop_words": {**DRAWN, "stop_words": ["e", "a"]},
    "end_id": {**DRAWN, "end_id": 17},
    "ignore_eos": {**DRAWN, "ignore_eos": True, "request_output_len": 50},
    "sampling_parameters": {
        "sampling_parameters": '{"temperature": 0.9, "top_k": 4, "seed": 5, "stop": ["q"]}'
    },
    "log_probs": {**DRAWN, "return_log_probs": True},
    "likeliest": {**DRAWN, "logprobs": 3},
    "prompt log_probs": {**DRAWN, "prompt_logprobs": 2, "num_return_sequences": 2},
    "prompt alone": {"prompt_logprobs": 0, "max_tokens": 0},
    "logit_bias": {**DRAWN, "logit_bias_ids": [3, 300], "logit_bias_values": [9.0, -np.inf]},
    "log_probs in sampling_parameters": {
        "sampling_parameters": '{"logprobs": 1, "prompt_logprobs": 1, "logit_bias": {"3": 9}}'
    },
    "include_stop_token": {
        **DRAWN,
        "stop_token_ids": [*range(0, 320, 2)],
        "include_stop_token": True,
    },
    "prompt": {**DRAWN, "exclude_input_in_output": False},
    "sequences": {**DRAWN, "num_return_sequences": 3},
}

BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"text_input": "x"}, "text_input: the native backend has no tokenizer; give token"),
    "no prompt": ({"max_tokens": 3}, "text_input, input_ids: neither is given"),
    "bad words": ({"input_ids": [1], "bad_words": ["x"]}, "bad_words = ['x']: words need"),
    "top_k": ({"input_ids": [1], "top_k": -1}, "top_k = -1"),
    "logprobs": ({"input_ids": [1], "logprobs": 21}, "logprobs = 21"),
    "prompt_logprobs": ({"input_ids": [1], "prompt_logprobs": -1}, "prompt_logprobs = -1"),
    "bias of nothing": ({"input_ids": [1], "logit_bias_values": [1.0]}, "have 0 and 1 values"),
    "bias beyond the vocabulary": (
        {"input_ids": [1], "logit_bias_ids": [320], "logit_bias_values": [1.0]},
        "logit_bias[0].token_id is 320",
    ),
    "top_p": ({"input_ids": [1], "top_p": 0.0}, "top_p is 0"),
    "temperature": ({"input_ids": [1], "temperature": float("nan")}, "temperature = nan"),
    "no tokens": ({"input_ids": []}, "num_prompt_tokens is 0"),
    "prompt too long": ({"input_ids": [5] * (2**20 + 1)}, "num_prompt_tokens is 1048577"),
    "id beyond the vocabulary": ({"input_ids": [1, 320]}, "prompt_token_ids[1] is 320"),
    "max_tokens": ({"input_ids": [1], "max_tokens": 2**31 - 1}, "max_tokens is 21474"),
    "sequences": ({"input_ids": [1], "num_return_sequences": 17}, "num_return_sequences is 17"),
    "not JSON": ({"input_ids": [1], "sampling_parameters": "{"}, "sampling_parameters: is not"),
    "unknown option": (
        {"input_ids": [1], "sampling_parameters": '{"beam_width": 4}'},
        "sampling_parameters: beam_width",
    ),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


@contextlib.contextmanager
def native_server(
    engine: Path, folder: Path, *, is_decoupled: bool = True, can_reload: bool = False
) -> Iterator[TritonServer]:
    runtime = RuntimeOptions(
        kv_cache_bytes=KV_CACHE_BYTES,
        max_queue_size=MAX_QUEUE_SIZE,
        # Requests that together would not fit to their ends must all run.
        policy="MAX_UTILIZATION",
    )
    options = NativeOptions(ModelOptions(str(engine), runtime=runtime), is_decoupled=is_decoupled)
    repository = write_repository(folder, options, MODEL)
    ports = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, can_reload=can_reload)
    with TritonServer(repository, ports) as running:
        yield running


@pytest.fixture(scope="module")
def server(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with native_server(engine, tmp_path_factory.mktemp("native")) as running:
        yield running


@pytest.fixture(scope="module")
def python_answers(
    engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Response]]:
    """What the Python backend answers to SAME."""
    with serving(engine, tmp_path_factory.mktemp("python")) as running:
        return {
            name: grpc_stream(running, {"input_ids": PROMPT, **request})
            for name, request in SAME.items()
        }


def joined(responses: list[Response]) -> tuple[str, list[int], str]:
    """Text, token ids and the last finish reason."""
    assert "error" not in responses[-1], responses[-1]
    text = "".join(response["text_output"] for response in responses)
    token_ids = [token for response in responses for token in response["output_ids"]]
    return text, token_ids, responses[-1]["finish_reason"]


def of_sequence(responses: list[Response], index: int) -> list[Response]:
    return [response for response in responses if response["sequence_index"] == index]


def assert_idle(server: TritonServer, free: float) -> None:
    wait_until(lambda: num_active(server) == 0, "nothing in flight")
    wait_until(lambda: num_free_blocks(server) == free, "all blocks free again")


@pytest.mark.parametrize("name", SAME)
def test_same_answers_as_the_python_backend(
    name: str, server: TritonServer, python_answers: dict[str, list[Response]]
) -> None:
    request = {"input_ids": PROMPT, **SAME[name]}
    whole = grpc_stream(server, request)
    by_sequence = sorted(whole, key=lambda response: response["sequence_index"])
    assert by_sequence == sorted(
        python_answers[name], key=lambda response: response["sequence_index"]
    )
    streams = [grpc_stream(server, {**request, "stream": True})]
    streams.append(http_stream(server, {**request, "stream": True}))
    for stream in streams:
        for response in by_sequence:
            index = response["sequence_index"]
            assert joined(of_sequence(stream, index)) == joined([response])
    if len(whole) == 1:
        status, answer = http_generate(server, request)
        assert (status, answer["text_output"]) == (200, whole[0]["text_output"])


def test_streams_while_it_generates(server: TritonServer) -> None:
    request = {"input_ids": [1], "max_tokens": 1500, "ignore_eos": True, "stream": True}
    for responses in (grpc_stream(server, request), http_stream(server, request)):
        assert len(responses) > 10
        assert len(joined(responses)[1]) == 1500
        assert all(response["finish_reason"] == "" for response in responses[:-1])


def test_counts_and_times(server: TritonServer) -> None:
    request = {"input_ids": [4, 5, 6], "max_tokens": 40, "ignore_eos": True, "stream": True}
    last = grpc_stream(server, {**request, "return_perf_metrics": True})[-1]
    assert (last["num_input_tokens"], last["num_output_tokens"]) == (3, 40)
    times = ["arrival", "first_scheduled", "first_token", "last_token"]
    values = [last[f"{name}_time_ns"] for name in times]
    assert values == sorted(values)
    assert values[0] > 0


def test_outputs_that_nobody_asked_for_are_left_out(server: TritonServer) -> None:
    with contextlib.closing(grpc.InferenceServerClient(server.grpc_url)) as client:
        results: list[Any] = []
        client.start_stream(lambda result, error: results.append((result, error)))
        wanted = [grpc.InferRequestedOutput("output_ids")]
        client.async_stream_infer(MODEL, tensors({"input_ids": [1]}), outputs=wanted)
        client.stop_stream()
    ((result, error),) = results
    assert error is None
    assert [output.name for output in result.get_response().outputs] == ["output_ids"]


def test_timeouts_end_a_request(server: TritonServer) -> None:
    assert_timeouts_end_a_request(server)


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_is_answered_with_its_reason(name: str, server: TritonServer) -> None:
    request, reason = BAD_REQUESTS[name]
    (response,) = grpc_stream(server, request)
    assert reason in response["error"]
    if request.get("input_ids") != []:
        status, body = http_generate(server, request)
        assert status == 400
        assert reason in body["error"]
    assert joined(grpc_stream(server, {"input_ids": [1]}))[1]  # and the server goes on


def test_bad_requests_do_not_hurt_their_neighbours(server: TritonServer) -> None:
    good = {"input_ids": [3, 4], "max_tokens": 400, "ignore_eos": True, "seed": 9}
    (alone,) = grpc_stream(server, good)
    with GrpcStream(server) as stream:
        stream.submit(good, "good")
        for request, _ in BAD_REQUESTS.values():
            stream.submit(request)
        responses = [stream.next() for _ in range(len(BAD_REQUESTS) + 1)]
    (found,) = [response for response in responses if response.get("id") == "good"]
    assert found["output_ids"] == alone["output_ids"]


def test_key_of_no_input_is_refused(server: TritonServer) -> None:
    status, body = http_generate(server, {"input_ids": [1], "max_token": 3, "beam_width": 4})
    assert status == 400
    assert "max_token: there is no such option; did you mean max_tokens?" in body["error"]
    assert "beam_width = 4: not supported: beam search" in body["error"]
    assert http_generate(server, {"input_ids": [1], "beam_width": 1})[0] == 200


def test_clients_that_leave_free_their_blocks(server: TritonServer) -> None:
    wait_until(lambda: num_active(server) == 0, "nothing in flight before")
    free = num_free_blocks(server)
    with GrpcStream(server) as stream:
        stream.submit(STREAMING)
        stream.submit(LASTING)
        assert stream.next()["finish_reason"] == ""
        assert num_free_blocks(server) < free
    assert_idle(server, free)
    connection = http_socket(server, STREAMING)
    connection.recv(1 << 16)
    reset(connection)
    assert_idle(server, free)


def test_full_queue_says_when_to_try_again(server: TritonServer) -> None:
    def gauge(value: str) -> float | None:
        return read_gauge(metrics(server), REQUESTS, value)

    wait_until(lambda: num_active(server) == 0, "nothing in flight before")
    free = num_free_blocks(server)
    with GrpcStream(server) as stream:
        for _ in range(MAX_BATCH_SIZE):
            stream.submit(LASTING)
        wait_until(lambda: gauge("scheduled") == MAX_BATCH_SIZE, "all of a batch run")
        for _ in range(MAX_QUEUE_SIZE):
            stream.submit(LASTING)
        wait_until(lambda: gauge("waiting") == MAX_QUEUE_SIZE, "the queue is full")
        stream.submit(LASTING)
        assert "retry after 1 s" in stream.next()["error"]
        status, body = http_generate(server, LASTING)
        assert status >= 400
        assert f"max_queue_size {MAX_QUEUE_SIZE}" in body["error"]
    assert_idle(server, free)


def test_metrics_are_those_of_the_python_backend(server: TritonServer) -> None:
    assert_counts_what_is_served(server)


def repository_call(server: TritonServer, action: str) -> int:
    with contextlib.closing(
        http.client.HTTPConnection(server.http_url, timeout=DEADLINE_S)
    ) as connection:
        connection.request("POST", f"/v2/repository/models/{MODEL}/{action}", json.dumps({}))
        return connection.getresponse().status


def mapped_bytes(server: TritonServer) -> int:
    """Address space of the server process; the KV cache is a part of it from the start."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmSize:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmSize")


def test_unload_gives_the_memory_back_and_reload_serves_again(
    engine: Path, tmp_path: Path, server: TritonServer
) -> None:
    request = {"input_ids": PROMPT, **DRAWN}
    expected = http_generate(server, request)
    # A server of its own, and no gRPC: Triton server's streams may keep their last request, and
    # with it the model of either backend, until they are closed and even then.
    with native_server(engine, tmp_path, can_reload=True) as own:
        limit = mapped_bytes(own) - KV_CACHE_BYTES // 2
        for _ in range(2):
            assert http_generate(own, request) == expected
            assert mapped_bytes(own) > limit
            # In flight while the model is unloaded: it is served to its end.
            lasting = {"input_ids": [1], "max_tokens": 4000, "ignore_eos": True, "stream": True}
            with http_socket(own, lasting) as connection:
                received = connection.recv(1 << 16)
                assert repository_call(own, "unload") == 200
                while b'"finish_reason":"length"' not in received:
                    chunk = connection.recv(1 << 16)
                    assert chunk, "the stream ended early"
                    received += chunk
            wait_until(lambda: mapped_bytes(own) < limit, "memory is given back")
            assert http_generate(own, request)[0] >= 400
            assert repository_call(own, "load") == 200
        assert http_generate(own, request) == expected


def test_model_that_answers_once(engine: Path, tmp_path: Path, server: TritonServer) -> None:
    (expected,) = grpc_stream(server, {"input_ids": PROMPT, **DRAWN})
    with (
        native_server(engine, tmp_path, is_decoupled=False) as once,
        contextlib.closing(grpc.InferenceServerClient(once.grpc_url)) as client,
    ):
        result = client.infer(MODEL, tensors({"input_ids": PROMPT, **DRAWN}))
        assert result.as_numpy("output_ids").tolist() == expected["output_ids"]
        assert result.as_numpy("text_output")[0].decode() == expected["text_output"]
        status, answer = http_generate(once, {"input_ids": PROMPT, **DRAWN})
        assert (status, answer["output_ids"]) == (200, expected["output_ids"])
        for inputs, reason in (
            ({"stream": True}, "stream = true: the model answers each request once"),
            ({"num_return_sequences": 2}, "num_return_sequences = 2: the model answers each"),
            ({"input_ids": np.array([400]).tolist()}, "prompt_token_ids[0] is 400"),
        ):
            with pytest.raises(InferenceServerException) as raised:
                client.infer(MODEL, tensors({"input_ids": PROMPT, **inputs}))
            assert reason in str(raised.value)
