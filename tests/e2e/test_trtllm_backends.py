# SPDX-License-Identifier: Apache-2.0
"""`tensorrt_llm` answers alike on both backends, tensor for tensor and error for error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from enginery.triton_backend.trtllm.options import TrtllmOptions
from enginery.triton_backend.trtllm.tensors import TENSORRT_LLM, TENSORRT_LLM_INPUTS, InputSpec
from enginery.triton_backend.trtllm.word_lists import write_word_lists
from tests.support.schemes import build_tiny_engine
from tests.support.triton import FREE_PORTS
from tests.support.trtllm import Arrays, Failed, ask

IDS: dict[str, Any] = {"input_ids": [5, 6, 7], "input_lengths": 3, "request_output_len": 24}
DRAWN: dict[str, Any] = {"runtime_top_p": 0.95, "temperature": 0.9, "seed": 2**64 - 7}
COUNTS = {"return_num_input_tokens": True, "return_num_output_tokens": True}
LOGITS = {"return_context_logits": True, "return_generation_logits": True}
# Two words, of which one is a special token, and three that are banned.
STOPS = write_word_lists([[[ord("e")], [257]]])
BANS = write_word_lists([[[ord("a"), ord("b")], [ord(" ")], [300]]])

SAME: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {**DRAWN, "runtime_top_k": 40},
    "top k alone": {"runtime_top_k": 40, "runtime_top_p": 0.0, "seed": 3},
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 2.5, "frequency_penalty": 1.25},
    "ends": {**DRAWN, "end_id": 17, "min_tokens": 5, "pad_id": 0},
    "stop words": {**DRAWN, "stop_words_list": STOPS},
    "bad words": {**DRAWN, "bad_words_list": BANS},
    "bias": {"embedding_bias": [0.5] * 100 + [-3.0] * 100 + [0.0] * 120},
    "log probs": {**DRAWN, "return_log_probs": True, **COUNTS},
    "logits": {**LOGITS, "exclude_input_in_output": True},
    "sequences": {**DRAWN, **COUNTS, "num_return_sequences": 3},
    "everything off": {
        **{spec.name: spec.off[0] for spec in TENSORRT_LLM_INPUTS if spec.off},
        "stop": False,
    },
}
PERF = {"return_perf_metrics": True, "end_id": -1}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TritonServer]]:
    engine = build_tiny_engine(tmp_path_factory.mktemp("engine"))
    model = ModelOptions(str(engine), runtime=RuntimeOptions(kv_cache_bytes=1 << 26))
    with contextlib.ExitStack() as stack:
        yield {
            backend: stack.enter_context(
                TritonServer(
                    write_repository(
                        tmp_path_factory.mktemp(backend),
                        TrtllmOptions(model, is_native=backend == "native"),
                    ),
                    FREE_PORTS,
                )
            )
            for backend in ("python", "native")
        }


def rows(responses: list[Arrays]) -> dict[tuple[int, int], list[Arrays]]:
    """The responses of each sequence of each row."""
    found: dict[tuple[int, int], list[Arrays]] = {}
    for response in responses:
        names = ("batch_index", "sequence_index")
        batch, sequence = (int(response[name][0, 0]) if name in response else 0 for name in names)
        found.setdefault((batch, sequence), []).append(response)
    return found


def joined(responses: list[Arrays]) -> Arrays:
    """What a stream says at its end; how its tokens were dealt out is not compared."""
    whole = dict(responses[-1])
    whole["output_ids"] = np.concatenate([each["output_ids"] for each in responses], axis=2)
    if "generation_logits" in whole:
        logits = [each["generation_logits"] for each in responses]
        whole["generation_logits"] = np.concatenate(
            [each for each in logits if each.size] or logits[:1], axis=1
        )
    del whole["sequence_length"]
    return whole


def assert_same(python: Arrays, native: Arrays) -> None:
    assert native.keys() == python.keys()
    for name, array in python.items():
        assert native[name].dtype == array.dtype, name
        np.testing.assert_array_equal(native[name], array, name)


@pytest.mark.parametrize("name", SAME)
def test_same_tensors(name: str, servers: dict[str, TritonServer]) -> None:
    request = {**IDS, **SAME[name]}
    whole = [rows(ask(server, request, TENSORRT_LLM)) for server in servers.values()]
    assert whole[0].keys() == whole[1].keys()
    for index, (response,) in whole[0].items():
        assert_same(response, whole[1][index][0])
    streams = [
        rows(ask(server, {**request, "streaming": True}, TENSORRT_LLM))
        for server in servers.values()
    ]
    assert streams[0].keys() == streams[1].keys() == whole[0].keys()
    for index, responses in streams[0].items():
        assert_same(joined(responses), joined(streams[1][index]))


def test_same_tensors_of_several_rows(servers: dict[str, TritonServer]) -> None:
    both = {name: [[value], [value]] for name, value in {**DRAWN, **COUNTS}.items()}
    request = {
        **both,
        "input_ids": [[5, 6, 7, 8], [9, 0, 0, 0]],
        "input_lengths": [[4], [1]],
        "request_output_len": [[9], [30]],
    }
    python, native = (rows(ask(server, request, TENSORRT_LLM)) for server in servers.values())
    assert python.keys() == native.keys() == {(0, 0), (1, 0)}
    for index, (response,) in python.items():
        assert_same(response, native[index][0])


def test_same_counts(servers: dict[str, TritonServer]) -> None:
    python, native = (ask(server, {**IDS, **PERF}, TENSORRT_LLM)[0] for server in servers.values())
    for response in (python, native):
        times = [int(response.pop(name)[0, 0]) for name in list(response) if "time_ns" in name]
        assert times == sorted(times)
        assert times[0] > 0
    assert_same(python, native)


def on(spec: InputSpec) -> Any:
    """One row that asks for something."""
    shape = [1, *(dim if dim > 0 else 2 for dim in spec.dims)]
    kinds: dict[str, Any] = {"STRING": np.object_, "BOOL": np.bool_}
    value = {"STRING": b"json", "BOOL": True, "FP32": 0.1, "FP16": 1.5}.get(spec.data_type, 3)
    return np.full(shape, value, kinds.get(spec.data_type))


REFUSED: dict[str, dict[str, Any]] = {
    **{spec.name: {spec.name: on(spec)} for spec in TENSORRT_LLM_INPUTS if spec.refusal},
    "two": {"beam_width": 2, "len_penalty": 1e-7, "guided_decoding_guide": "é" * 80},
    "long": {"draft_input_ids": list(range(1000))},
    "lengths": {"input_lengths": 4},
    "no prompt": {"input_lengths": 0},
    "token": {"input_ids": [1, 2, 320]},
    "stop": {"stop": True},
    "ends": {"stop_words_list": np.array([[[1, 2], [2, 1]]])},
    "padding": {"bad_words_list": np.array([[[1, 2], [-1, 1]]])},
    "no text": {"stop_words_list": write_word_lists([[[0xC3, ord("x")]]])},
    "vocabulary": {"stop_words_list": write_word_lists([[[320]]])},
    "bias": {"embedding_bias": [1.0, 2.0]},
}


@pytest.mark.parametrize("name", REFUSED)
def test_same_refusals(name: str, servers: dict[str, TritonServer]) -> None:
    messages = []
    for server in servers.values():
        with pytest.raises(Failed) as raised:
            ask(server, {**IDS, **REFUSED[name]}, TENSORRT_LLM)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_python_is_in_the_text_steps_alone(servers: dict[str, TritonServer]) -> None:
    found = {}
    for backend, server in servers.items():
        stubs = [
            Path(f"/proc/{pid}/cmdline").read_text()
            for task in Path(f"/proc/{server.pid}/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]
        models = (folder.name for folder in server.repository.path.iterdir())
        found[backend] = {
            model for model in models if any(f"/{model}/1/model.py" in stub for stub in stubs)
        }
        assert len(stubs) == len(found[backend])
    assert found["native"] == {"preprocessing", "postprocessing", "tensorrt_llm_bls"}
    assert found["python"] == found["native"] | {TENSORRT_LLM}
