# SPDX-License-Identifier: Apache-2.0
"""Clients of TensorRT-LLM's models get from the real tritonserver what the runtime gives here.

Everything is asked of both backends of `tensorrt_llm`, which so give the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from enginery.runtime.llm import LLM
from enginery.runtime.outputs import CompletionOutput
from enginery.runtime.runtime import RuntimeOptions
from enginery.runtime.sampling_params import SamplingParams
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from enginery.triton_backend.trtllm.options import TrtllmOptions
from enginery.triton_backend.trtllm.tensors import BLS, TENSORRT_LLM
from tests.support.metrics_page import Page, assert_served
from tests.support.triton import (
    FREE_PORTS,
    MAX_SEQ_LEN,
    build_lasting_engine,
    metrics,
    num_active,
    wait_until,
)
from tests.support.trtllm import Arrays, Failed, Stream, ask, generate, typed_inputs

BACKENDS = ("python", "native")
PROMPT = "In the beginning was the café"
OTHER = "And it came to pass"
# As the client sends it: TensorRT-LLM is greedy unless top_k or top_p say otherwise.
REQUEST: dict[str, Any] = {
    "text_input": PROMPT, "max_tokens": 40, "stream": False, "beam_width": 1, "temperature": 1.0,
}  # fmt: skip
GREEDY = SamplingParams(max_tokens=40, top_k=1)
DRAWN: dict[str, Any] = {"top_p": 0.95, "temperature": 0.9, "seed": 20260714}
END = {**DRAWN, "end_id": 101}
IDS: dict[str, Any] = {
    "input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": 12, "end_id": -1,
}  # fmt: skip
LASTING: dict[str, Any] = {**IDS, "request_output_len": MAX_SEQ_LEN - 8}
PERF_METRICS = [
    "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks",
    "arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns",
    "acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens",
]  # fmt: skip

# Inputs of the ensemble -> the same as arguments of SamplingParams.
PARAMETERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "top_k": ({"top_k": 3, "seed": 1}, {"top_k": 3, "seed": 1}),
    "top_k alone": ({"top_k": 3, "top_p": 0.0, "seed": 1}, {"top_k": 3, "seed": 1}),
    "top_p": (DRAWN, DRAWN),
    "temperature 0": ({"temperature": 0.0, "top_p": 0.9}, {"temperature": 0.0}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, {"top_k": 1, "repetition_penalty": 1.5}),
    "presence_penalty": ({"presence_penalty": 2.5}, {"top_k": 1, "presence_penalty": 2.5}),
    "frequency_penalty": ({"frequency_penalty": 1.25}, {"top_k": 1, "frequency_penalty": 1.25}),
    "min_tokens": ({**END, "min_tokens": 9}, {**END, "min_tokens": 9}),
    "end_id": (END, END),
    "pad_id": ({"pad_id": 0}, {"top_k": 1}),
    "nothing ends it": ({**DRAWN, "end_id": -1}, {**DRAWN, "ignore_eos": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


def serve(engine: Path, folder: Path, **options: Any) -> TritonServer:
    runtime = RuntimeOptions(kv_cache_bytes=1 << 30)
    model = ModelOptions(str(engine), runtime=runtime)
    return TritonServer(write_repository(folder, TrtllmOptions(model, **options)), FREE_PORTS)


@pytest.fixture(scope="module", params=BACKENDS)
def server(
    request: pytest.FixtureRequest, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    is_native = request.param == "native"
    with serve(engine, tmp_path_factory.mktemp("repository"), is_native=is_native) as running:
        yield running


@pytest.fixture(scope="module")
def llm(engine: Path) -> Iterator[LLM]:
    with LLM(str(engine)) as opened:
        yield opened


def expected(llm: LLM, prompt: Any = PROMPT, params: SamplingParams = GREEDY) -> CompletionOutput:
    output: CompletionOutput = llm.generate(prompt, params).outputs[0]
    return output


def texts(responses: list[Arrays]) -> list[str]:
    return [response["text_output"][0].decode() for response in responses]


def ids(responses: list[Arrays]) -> list[int]:
    return [token for response in responses for token in response["output_ids"][0][0].tolist()]


def test_text(server: TritonServer, llm: LLM) -> None:
    (response,) = ask(server, REQUEST, outputs=["text_output"])
    assert list(response) == ["text_output"]
    assert response["text_output"].shape == (1,)
    text = expected(llm).text
    assert texts([response]) == [PROMPT + text]
    assert texts(ask(server, {**REQUEST, "exclude_input_in_output": True})) == [text]


def test_stream(server: TritonServer, llm: LLM) -> None:
    """Of a model that speaks in broken characters as well as whole ones."""
    request = {**REQUEST, **DRAWN, "stream": True, "max_tokens": 6000, "end_id": -1}
    params = SamplingParams(**DRAWN, max_tokens=6000, ignore_eos=True)
    responses = ask(server, request)
    assert len(responses) > 10
    assert "".join(texts(responses)) == expected(llm, params=params).text


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str, server: TritonServer, llm: LLM) -> None:
    given, params = PARAMETERS[name]
    request = {**REQUEST, **given, "exclude_input_in_output": True}
    text = expected(llm, params=SamplingParams(max_tokens=40, **params)).text
    assert texts(ask(server, request)) == [text]
    assert "".join(texts(ask(server, {**request, "stream": True}))) == text


def test_token_ids(server: TritonServer, llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, top_k=1, ignore_eos=True)
    tokens = expected(llm, [5, 6, 7], params).token_ids
    (whole,) = ask(server, IDS, TENSORRT_LLM)
    assert whole.keys() == {"output_ids", "sequence_length"}
    assert whole["output_ids"].tolist() == [[[5, 6, 7, *tokens]]]
    assert whole["sequence_length"].tolist() == [[15]]
    (alone,) = ask(server, {**IDS, "exclude_input_in_output": True}, TENSORRT_LLM)
    assert alone["output_ids"].tolist() == [[tokens]]
    stream = ask(server, {**IDS, "streaming": True}, TENSORRT_LLM)
    assert ids(stream) == tokens
    lengths = [response["sequence_length"].tolist() for response in stream]
    assert lengths == [[[response["output_ids"].shape[2]]] for response in stream]


def test_end_token_is_left_out(server: TritonServer, llm: LLM) -> None:
    params = SamplingParams(max_tokens=12, top_k=1, ignore_eos=True)
    tokens = expected(llm, [5, 6, 7], params).token_ids
    end = tokens[5]
    shorter = tokens[: tokens.index(end)]
    request = {**IDS, "end_id": end, "exclude_input_in_output": True}
    assert ids(ask(server, request, TENSORRT_LLM)) == shorter
    assert ids(ask(server, {**request, "streaming": True}, TENSORRT_LLM)) == shorter


def test_stop_words_stay_and_bad_words_do_not_come(server: TritonServer, llm: LLM) -> None:
    request = {**REQUEST, **DRAWN, "exclude_input_in_output": True, "max_tokens": 200}
    params = {**DRAWN, "max_tokens": 200}
    (plain,) = texts(ask(server, request))
    word = next(char for char in plain[3:] if char.isascii() and char.isalpha())
    stopped = expected(
        llm, params=SamplingParams(**params, stop=[word], include_stop_str_in_output=True)
    )
    for stream in (False, True):
        found = "".join(texts(ask(server, {**request, "stop_words": ["", word], "stream": stream})))
        assert found == stopped.text
        assert word in found
    (without,) = texts(ask(server, {**request, "bad_words": [word]}))
    assert without == expected(llm, params=SamplingParams(**params, bad_token_ids=[ord(word)])).text


def test_log_probs(server: TritonServer, llm: LLM) -> None:
    output = expected(llm, params=SamplingParams(**DRAWN, max_tokens=40, logprobs=0))
    assert output.logprobs is not None
    pairs = zip(output.logprobs, output.token_ids, strict=True)
    drawn = [entry[token].logprob for entry, token in pairs]
    request = {**REQUEST, **DRAWN, "return_log_probs": True}
    for stream in (False, True):
        last = ask(server, {**request, "stream": stream})[-1]
        assert last["output_log_probs"].shape == (1, 1, len(drawn))
        assert last["output_log_probs"][0, 0].tolist() == pytest.approx(drawn, rel=1e-6)
        assert last["cum_log_probs"].tolist() == [[pytest.approx(sum(drawn), rel=1e-5)]]


def test_embedding_bias(server: TritonServer) -> None:
    request = {**REQUEST, "exclude_input_in_output": True, "max_tokens": 5}
    request |= {"embedding_bias_words": ["q", "z"], "embedding_bias_weights": [1000.0, 0.5]}
    assert texts(ask(server, request)) == ["qqqqq"]


def test_several_sequences(server: TritonServer, llm: LLM) -> None:
    wanted = llm.generate(PROMPT, SamplingParams(**DRAWN, max_tokens=40, n=3)).outputs
    request = {**REQUEST, **DRAWN, "num_return_sequences": 3, "exclude_input_in_output": True}
    for stream in (False, True):
        found = {0: "", 1: "", 2: ""}
        for response in ask(server, {**request, "stream": stream}):
            found[int(response["sequence_index"][0][0])] += texts([response])[0]
        assert found == {output.index: output.text for output in wanted}
    assert len(set(found.values())) > 1


def test_several_prompts(server: TritonServer, llm: LLM) -> None:
    request = {
        name: [[value], [value]] for name, value in REQUEST.items() if name != "text_input"
    } | {"text_input": [[PROMPT], [OTHER]]}
    for stream in ([[False], [False]], [[True], [True]]):
        found = {0: "", 1: ""}
        for response in ask(server, {**request, "stream": stream}):
            found[int(response["batch_index"][0][0])] += texts([response])[0]
        prompts = {0: PROMPT, 1: OTHER} if not stream[0][0] else {0: "", 1: ""}
        assert found == {
            index: prompts[index] + expected(llm, prompt).text
            for index, prompt in enumerate((PROMPT, OTHER))
        }


def test_counts_and_times(server: TritonServer) -> None:
    request = {**REQUEST, "end_id": -1, "return_perf_metrics": True}
    request |= {"return_num_input_tokens": True, "return_num_output_tokens": True}
    outputs = ["text_output", *PERF_METRICS, "num_input_tokens", "num_output_tokens"]
    for stream in (False, True):
        responses = ask(server, {**request, "stream": stream}, outputs=outputs)
        for response in responses:
            assert response.keys() == set(outputs)
            assert all(response[name].shape == (1, 1) for name in PERF_METRICS)
        values = {name: array[0][0] for name, array in responses[-1].items() if array.ndim == 2}
        times = [value for name, value in values.items() if name.endswith("_time_ns")]
        assert 0 < values["arrival_time_ns"] <= values["first_scheduled_time_ns"]
        assert values["first_token_time_ns"] <= values["last_token_time_ns"] == max(times)
        num_input = values["num_input_tokens"]
        assert values["num_output_tokens"] == 40
        assert values["kv_cache_alloc_total_blocks"] == -(-(num_input + 39) // 16)
        parts = values["kv_cache_reused_blocks"] + values["kv_cache_alloc_new_blocks"]
        assert parts == values["kv_cache_alloc_total_blocks"]


def test_logits(server: TritonServer, llm: LLM) -> None:
    params = SamplingParams(
        max_tokens=12, top_k=1, ignore_eos=True,
        return_context_logits=True, return_generation_logits=True,
    )  # fmt: skip
    result = llm.generate([5, 6, 7], params)
    request = {**IDS, "return_context_logits": True, "return_generation_logits": True}
    (whole,) = ask(server, request, TENSORRT_LLM)
    assert result.context_logits is not None
    assert np.array_equal(whole["context_logits"], result.context_logits[np.newaxis])
    drawn = result.outputs[0].generation_logits
    assert drawn is not None
    assert np.array_equal(whole["generation_logits"], drawn[np.newaxis, np.newaxis])
    stream = ask(server, {**request, "streaming": True}, TENSORRT_LLM)
    steps = np.concatenate([response["generation_logits"] for response in stream], axis=1)
    assert np.array_equal(steps, drawn[np.newaxis, :, np.newaxis])


@pytest.mark.parametrize("streaming", [True, False])
def test_stop_request(streaming: bool, server: TritonServer) -> None:
    stop = {"input_ids": [0], "input_lengths": 0, "request_output_len": 0, "stop": True}
    with Stream(server, TENSORRT_LLM) as lasting, Stream(server, TENSORRT_LLM) as stopping:
        lasting.submit({**LASTING, "streaming": streaming}, request_id="77")
        wait_until(lambda: num_active(server) == 1, "the request runs")
        stopping.submit(stop, request_id="78")  # another's
        assert stopping.until_last() == []
        assert num_active(server) == 1
        stopping.submit(stop, request_id="77")
        assert stopping.until_last() == []
        found = lasting.until_last()
    assert 0 < len(ids(found)) < MAX_SEQ_LEN - 8


def test_stop_request_for_the_ensemble(server: TritonServer) -> None:
    request = {**REQUEST, "max_tokens": MAX_SEQ_LEN - 100, "end_id": -1}
    with Stream(server) as lasting:
        lasting.submit(request, request_id="a name")
        wait_until(lambda: num_active(server) == 1, "the request runs")
        with Stream(server, TENSORRT_LLM) as stopping:
            stopping.submit({**IDS, "stop": True}, request_id="a name")
            stopping.until_last()
        (text,) = texts(lasting.until_last())
    assert text.startswith(PROMPT)


def test_ensemble_is_not_told_that_its_client_left(server: TritonServer) -> None:
    """What Triton server does and docs/triton.md says: then `stop` is what ends the request."""
    with Stream(server) as leaving:
        request = {**REQUEST, "max_tokens": MAX_SEQ_LEN - 100, "end_id": -1}
        leaving.submit(request, request_id="left")
        wait_until(lambda: num_active(server) == 1, "the request runs")
    for _ in range(3):  # each time the metrics of a later moment, when clients were asked for
        time.sleep(0.1)
        assert num_active(server) == 1
    with Stream(server, TENSORRT_LLM) as stopping:
        stopping.submit({**IDS, "stop": True}, request_id="left")
        stopping.until_last()
    wait_until(lambda: num_active(server) == 0, "the request is cancelled")


def test_client_that_leaves(server: TritonServer) -> None:
    with Stream(server, TENSORRT_LLM) as stream:
        stream.submit({**LASTING, "streaming": True})
        stream.submit(LASTING)
        stream.next()
    wait_until(lambda: num_active(server) == 0, "the requests are cancelled")


@pytest.mark.parametrize("model", ["ensemble", TENSORRT_LLM])
def test_timeouts_end_a_request(model: str, server: TritonServer) -> None:
    lasting = {**REQUEST, "max_tokens": MAX_SEQ_LEN - 100, "end_id": -1, "stream": True}
    with Stream(server, model) as stream:
        stream.submit(
            lasting if model == "ensemble" else {**LASTING, "streaming": True}, timeout_us=300_000
        )
        responses = stream.until_last()
    assert responses
    wait_until(lambda: num_active(server) == 0, "the request ended")


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        ("ensemble", {"beam_width": 2}, "beam_width = 2: beam search is not built"),
        ("ensemble", {"length_penalty": 0.5}, "len_penalty (length_penalty of the ensemble)"),
        ("ensemble", {"text_input": ""}, "QUERY (text_input of the ensemble): is empty"),
        ("ensemble", {"decoder_text_input": "x"}, "there are no encoder-decoder models"),
        ("ensemble", {"prompt_embedding_table": np.ones((1, 2, 2))}, "prompt tuning is not built"),
        ("ensemble", {"lora_weights": np.ones((1, 2, 2))}, "adapters are not built"),
        ("ensemble", {"guided_decoding_guide_type": "json"}, "constrained decoding is not built"),
        ("ensemble", {"max_tokens": -1}, "max_tokens = -1"),
        (BLS, {"num_draft_tokens": 3}, "num_draft_tokens = 3: speculative decoding is not built"),
        (BLS, {"beam_width": 2}, "beam_width = 2: beam search is not built"),
        (BLS, {"text_input": ""}, "QUERY (text_input of the ensemble): is empty"),
        ("ensemble", {"temperature": -1.0}, "temperature"),
        (TENSORRT_LLM, {"input_ids": [320], "input_lengths": 1}, "prompt_token_ids[0] is 320"),
        (TENSORRT_LLM, {"input_ids": [[1, 2], [1, 320]], "input_lengths": [[2], [2]],
                        "request_output_len": [[1000], [3]], "end_id": [[-1], [-1]]},
         "prompt_token_ids[1] is 320"),
        (TENSORRT_LLM, {"input_lengths": 4}, "input_lengths = 4: input_ids has 3"),
        (TENSORRT_LLM, {"input_lengths": 0}, "num_prompt_tokens is 0"),
        (TENSORRT_LLM, {"embedding_bias": [0.5] * 3}, "embedding_bias: has 3 values"),
        (TENSORRT_LLM, {"stop": True}, "stop = True: the request has no id"),
        (TENSORRT_LLM, {"stop_words_list": np.ones((1, 2, 2))}, "stop_words_list: ends [1, 1]"),
        (TENSORRT_LLM, {"context_phase_params": [1]}, "context_phase_params = 1"),
    ],
)  # fmt: skip
def test_bad_requests(
    model: str, inputs: dict[str, Any], reason: str, server: TritonServer
) -> None:
    base = IDS if model == TENSORRT_LLM else REQUEST
    with pytest.raises(Failed) as raised:
        ask(server, {**base, **inputs}, model)
    assert reason in str(raised.value)
    assert ids(ask(server, IDS, TENSORRT_LLM))  # and the server goes on
    wait_until(lambda: num_active(server) == 0, "nothing is left running")


def test_too_many_rows(server: TritonServer) -> None:
    rows = {"QUERY": [["x"]] * 17, "REQUEST_OUTPUT_LEN": [[1]] * 17}
    with (
        http.InferenceServerClient(server.http_url) as client,
        pytest.raises(InferenceServerException, match="batch-size must be <= 16"),
    ):
        client.infer("preprocessing", typed_inputs("preprocessing", rows, http))


def test_bls(server: TritonServer, llm: LLM) -> None:
    (response,) = ask(server, REQUEST, BLS, ["text_output"])
    assert list(response) == ["text_output"]
    assert response["text_output"].shape == (1,)
    text = expected(llm).text
    assert texts([response]) == [PROMPT + text]
    stream = {**REQUEST, "stream": True, "return_log_probs": True, "return_perf_metrics": True}
    responses = ask(server, stream, BLS)
    assert "".join(texts(responses)) == text
    last = ask(server, stream)[-1]
    assert responses[-1]["output_log_probs"].tolist() == last["output_log_probs"].tolist()
    assert responses[-1].keys() == last.keys()


def test_bls_of_several_prompts_and_sequences(server: TritonServer, llm: LLM) -> None:
    given = {**REQUEST, **DRAWN, "num_return_sequences": 2, "exclude_input_in_output": True}
    request = {name: [[value], [value]] for name, value in given.items()}
    request["text_input"] = [[PROMPT], [OTHER]]
    found: dict[tuple[int, int], str] = {}
    for response in ask(server, request, BLS):
        indices = (int(response["batch_index"][0][0]), int(response["sequence_index"][0][0]))
        found[indices] = texts([response])[0]
    params = SamplingParams(**DRAWN, max_tokens=40, n=2)
    for index, prompt in enumerate((PROMPT, OTHER)):
        for output in llm.generate(prompt, params).outputs:
            assert found[index, output.index] == output.text


@pytest.mark.parametrize("stream", [True, False])
def test_client_of_bls_that_leaves(stream: bool, server: TritonServer) -> None:
    request = {**REQUEST, "max_tokens": MAX_SEQ_LEN - 100, "end_id": -1, "stream": stream}
    with Stream(server, BLS) as staying:
        staying.submit({**request, "max_tokens": 3000}, request_id="same")
        with Stream(server, BLS) as leaving:
            leaving.submit(request, request_id="same")
            wait_until(lambda: num_active(server) >= 1, "the request runs")
        count = sum(len(text) for text in texts(staying.until_last()))
    assert count > 1000  # of requests with one id, that of the client that left ends alone
    wait_until(lambda: num_active(server) == 0, "the request is cancelled")


def test_generate_over_http(server: TritonServer, llm: LLM) -> None:
    text = expected(llm).text
    status, (answer,) = generate(server, {"text_input": PROMPT, "max_tokens": 40})
    assert (status, answer["text_output"]) == (200, PROMPT + text)
    body = {"text_input": PROMPT, "max_tokens": 40, "stream": True, "top_k": 1}
    body |= {"bad_words": "", "stop_words": ["never", "seen"]}
    _, answers = generate(server, body, "generate_stream")
    assert "".join(answer["text_output"] for answer in answers) == text
    status, (answer,) = generate(server, {"text_input": "x", "max_tokens": 3, "max_token": 3})
    assert status == 400
    assert "max_token: there is no such option; did you mean max_tokens?" in answer["error"]


def test_steps_one_by_one_over_http(server: TritonServer, llm: LLM) -> None:
    with http.InferenceServerClient(server.http_url) as client:
        query = {
            "QUERY": PROMPT,
            "REQUEST_OUTPUT_LEN": 40,
            "STOP_WORDS_DICT": "",
            "BAD_WORDS_DICT": "",
        }
        encoded = client.infer("preprocessing", typed_inputs("preprocessing", query, http))
        stream = {
            "input_ids": encoded.as_numpy("INPUT_ID"),
            "input_lengths": encoded.as_numpy("REQUEST_INPUT_LEN"),
            "request_output_len": encoded.as_numpy("REQUEST_OUTPUT_LEN"),
            "end_id": encoded.as_numpy("OUT_END_ID"),
            "pad_id": encoded.as_numpy("OUT_PAD_ID"),
            "stop_words_list": encoded.as_numpy("STOP_WORDS_IDS"),
            "decoder_input_ids": encoded.as_numpy("DECODER_INPUT_ID"),
            "decoder_input_lengths": encoded.as_numpy("REQUEST_DECODER_INPUT_LEN"),
        }
        (tokens,) = ask(server, stream, TENSORRT_LLM)
        decoded = client.infer(
            "postprocessing",
            typed_inputs(
                "postprocessing",
                {
                    "TOKENS_BATCH": tokens["output_ids"],
                    "SEQUENCE_LENGTH": tokens["sequence_length"],
                },
                http,
            ),
        )
        assert decoded.as_numpy("OUTPUT").tolist() == [(PROMPT + expected(llm).text).encode()]


def test_bytes_that_are_no_text(server: TritonServer) -> None:
    array = np.array([[b"caf\xe9"]], np.object_)
    with pytest.raises(Failed, match="QUERY: is not UTF-8"):
        ask(server, {**REQUEST, "text_input": array})


def test_metrics_are_those_of_the_other_layout(server: TritonServer) -> None:
    def page() -> Page:
        wait_until(lambda: num_active(server) == 0, "nothing in flight")
        return Page(metrics(server), TENSORRT_LLM)

    before = page()
    ask(server, {**IDS, "request_output_len": 40, "streaming": True}, TENSORRT_LLM)
    ask(server, {**IDS, "request_output_len": 12}, TENSORRT_LLM)
    with pytest.raises(Failed, match="top_k = -1"):
        ask(server, {**IDS, "runtime_top_k": -1}, TENSORRT_LLM)
    after = page()
    after.assert_is_the_table()
    after.assert_is_sound()
    assert_served(before, after, num_streamed=40, num_whole=12, num_prompt_tokens=3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_response_a_request(backend: str, engine: Path, tmp_path: Path, llm: LLM) -> None:
    """Served with decoupled_mode false, for clients that call infer."""
    options = {"is_decoupled": False, "excludes_input": True, "is_native": backend == "native"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(engine, tmp_path, **options))
        client = stack.enter_context(http.InferenceServerClient(server.http_url))
        for model in ("ensemble", BLS):
            found = client.infer(model, typed_inputs(model, REQUEST, http))
            assert found.as_numpy("text_output").tolist() == [expected(llm).text.encode()]
        with pytest.raises(InferenceServerException, match="streaming = True: needs several"):
            client.infer("ensemble", typed_inputs("ensemble", {**REQUEST, "stream": True}, http))
