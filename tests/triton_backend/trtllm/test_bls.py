# SPDX-License-Identifier: Apache-2.0
"""One call of the BLS model against models that are functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from enginery.triton_backend.trtllm.bls import Call
from enginery.triton_backend.trtllm.options import BlsOptions
from enginery.triton_backend.trtllm.refusals import TICKET

FINAL = 1
Tensors = dict[str, npt.NDArray[Any]]
Model = Callable[[Tensors], list[Tensors]]


class FakeTensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class FakeResponse:
    def __init__(self, tensors: tuple[FakeTensor, ...] = (), error: Any = None) -> None:
        self._tensors, self._error = tensors, error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> Any:
        return self._error

    def output_tensors(self) -> tuple[FakeTensor, ...]:
        return self._tensors

    def arrays(self) -> dict[str, Any]:
        return {tensor.name(): tensor.as_numpy().tolist() for tensor in self._tensors}


class FakeError(str):
    INVALID_ARG = 3

    def __new__(cls, message: str, code: int = 0) -> FakeError:
        error = super().__new__(cls, message)
        error.code = code
        return error

    code: int


class FakeServer:
    """Triton server's Python backend module, and the models in the server.

    Args:
        models: what each model answers; "preprocessing" is asked first.
    """

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    Tensor = FakeTensor
    InferenceResponse = FakeResponse
    TritonError = FakeError

    def __init__(self, models: dict[str, Model]) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.sent: list[tuple[Any, int]] = []
        self.is_gone = False
        self._models = models

    def InferenceRequest(self, **request: Any) -> Any:
        return FakeCall(self, request)

    def answer(self, request: dict[str, Any]) -> list[FakeResponse]:
        self.asked.append((request["model_name"], request))
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request["inputs"]}
        try:
            answers = self._models[request["model_name"]](inputs)
        except LookupError as error:
            return [FakeResponse(error=FakeError(str(error), 3))]
        return [
            FakeResponse(tuple(FakeTensor(name, array) for name, array in answer.items()))
            for answer in answers
        ]

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return self.is_gone


class FakeCall:
    def __init__(self, server: FakeServer, request: dict[str, Any]) -> None:
        self._server, self._request = server, request

    def exec(self, decoupled: bool = False) -> Any:
        responses = self._server.answer(self._request)
        return iter(responses) if decoupled else responses[0]


class FakeRequest:
    """What the client asks of the BLS model."""

    def __init__(self, server: FakeServer, parameters: str) -> None:
        self._server, self._parameters = server, parameters

    def get_response_sender(self) -> FakeServer:
        return self._server

    def parameters(self) -> str:
        return self._parameters

    def request_id(self) -> str:
        return "id"

    def requested_output_names(self) -> list[str]:
        return ["text_output", "cum_log_probs", "sequence_index"]


def preprocess(inputs: Tensors) -> list[Tensors]:
    names = ["INPUT_ID", "REQUEST_INPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS", "EMBEDDING_BIAS"]
    arrays = {name: np.zeros((1, 1), np.int32) for name in names}
    return [{**arrays, "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"]}]


def tokens(*ids: int, **more: int) -> Tensors:
    return {
        "output_ids": np.array([[ids]], np.int32),
        "sequence_length": np.array([[len(ids)]], np.int32),
        **{name: np.array([[value]], np.int32) for name, value in more.items()},
    }


def postprocess(inputs: Tensors) -> list[Tensors]:
    length = int(inputs["SEQUENCE_LENGTH"].item())
    text = bytes(inputs["TOKENS_BATCH"][0, 0, :length].tolist())
    return [{"OUTPUT": np.array([text], np.object_)}]


def run(
    answers: list[Tensors] | Model, parameters: str = "", **options: Any
) -> tuple[FakeServer, Call]:
    model: Model = answers if callable(answers) else lambda _: answers
    server = FakeServer(
        {"preprocessing": preprocess, "tensorrt_llm": model, "postprocessing": postprocess}
    )
    arrays = {
        "text_input": np.array([[b"x"]], np.object_),
        "max_tokens": np.array([[5]], np.int32),
        "top_k": np.array([[4]], np.int32),
    }
    is_decoupled = options.pop("is_decoupled", True)
    call = Call(
        server, FakeRequest(server, parameters), arrays, BlsOptions(**options), is_decoupled
    )
    call.run()
    return server, call


def sent(server: FakeServer) -> Iterator[dict[str, Any]]:
    return (response.arrays() for response, _ in server.sent if response is not None)


def test_a_response_for_each_of_the_models() -> None:
    server, _ = run([tokens(97), tokens(98, 99)])
    assert [answer["text_output"] for answer in sent(server)] == [[b"a"], [b"bc"]]
    assert server.sent[-1] == (None, FINAL)
    models = [model for model, _ in server.asked]
    assert models == ["preprocessing", "tensorrt_llm", "postprocessing", "postprocessing"]


def test_inputs_are_handed_on() -> None:
    server, _ = run([tokens(97)])
    (request,) = [request for model, request in server.asked if model == "tensorrt_llm"]
    inputs = {tensor.name(): tensor.as_numpy().tolist() for tensor in request["inputs"]}
    assert inputs["runtime_top_k"] == [[4]]
    assert inputs["request_output_len"] == [[5]]
    assert inputs.keys() >= {"input_ids", "input_lengths", "stop_words_list", "bad_words_list"}
    assert request["request_id"] == "id"
    assert "cum_log_probs" in request["requested_output_names"]
    assert "output_log_probs" not in request["requested_output_names"]


def test_tokens_are_accumulated_per_sequence() -> None:
    answers = [tokens(97, sequence_index=0), tokens(65, sequence_index=1)]
    answers += [tokens(98, sequence_index=0), tokens(66, sequence_index=1)]
    server, _ = run(answers, accumulates_tokens=True)
    found = [(answer["sequence_index"], answer["text_output"]) for answer in sent(server)]
    assert found == [
        ([[0]], [b"a"]), ([[1]], [b"A"]), ([[0]], [b"ab"]), ([[1]], [b"AB"]),
    ]  # fmt: skip


def test_one_response_when_not_decoupled() -> None:
    server, _ = run([tokens(97)], is_decoupled=False)
    ((response, flags),) = server.sent
    assert response.arrays()["text_output"] == [b"a"]
    assert flags == FINAL


def test_error_of_a_model_is_handed_on() -> None:
    def refuses(_: Tensors) -> list[Tensors]:
        raise LookupError("why not")

    server, _ = run(refuses)
    ((response, flags),) = server.sent
    assert "why not" in response.error()
    assert (response.error().code, flags) == (3, FINAL)


def test_our_own_error_is_answered() -> None:
    server, _ = run([{"output_ids": np.zeros((1, 1, 1), np.int32)}])
    ((response, flags),) = server.sent
    assert response.error() == "KeyError: 'sequence_length'"
    assert flags == FINAL


def test_parameter_that_is_no_input() -> None:
    server, _ = run([tokens(97)], '{"max_token": 3}')
    ((response, _),) = server.sent
    assert "did you mean max_tokens?" in response.error()
    assert server.asked == []


def test_cancelled_by_its_ticket() -> None:
    server, call = run([tokens(97)])
    server.asked.clear()
    call.cancel()
    ((model, request),) = server.asked
    assert model == "tensorrt_llm"
    assert len(request["parameters"][TICKET]) == 32
    assert {tensor.name(): tensor.as_numpy().item() for tensor in request["inputs"]}["stop"]


@pytest.mark.parametrize("is_decoupled", [True, False])
def test_gone_until_answered(is_decoupled: bool) -> None:
    seen: list[bool] = []
    calls: list[Call] = []

    def model(_: Tensors) -> list[Tensors]:
        seen.append(calls[0].is_gone())
        return [tokens(97)]

    server = FakeServer(
        {"preprocessing": preprocess, "tensorrt_llm": model, "postprocessing": postprocess}
    )
    server.is_gone = True
    arrays = {"text_input": np.array([[b"x"]], np.object_), "max_tokens": np.array([[5]], np.int32)}
    calls.append(Call(server, FakeRequest(server, ""), arrays, BlsOptions(), is_decoupled))
    calls[0].run()
    assert seen == [True]
    assert not calls[0].is_gone()
