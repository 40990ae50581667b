# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the layout tensorrt_llm: clients that misbehave, and models that die."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from enginery.triton_backend.trtllm.options import TrtllmOptions
from enginery.triton_backend.trtllm.tensors import TENSORRT_LLM
from tests.support.hostile_clients import RawGrpc, SilentGrpcStream, raw_request
from tests.support.triton import (
    FREE_PORTS,
    MAX_SEQ_LEN,
    build_lasting_engine,
    num_active,
    num_free_blocks,
    wait_until,
)
from tests.support.trtllm import Failed, Stream, ask

BLS = "tensorrt_llm_bls"
CHECK: dict[str, Any] = {
    "text_input": "In the beginning", "max_tokens": 12, "stream": False, "end_id": -1,
}  # fmt: skip
LASTING_IDS: dict[str, Any] = {
    "input_ids": [5, 6, 7], "input_lengths": 3, "end_id": -1, "streaming": True,
    "request_output_len": MAX_SEQ_LEN - 8,
}  # fmt: skip
LASTING_TEXT = {**CHECK, "max_tokens": MAX_SEQ_LEN - 100, "stream": True}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lasting_engine(tmp_path_factory.mktemp("engine"))


def serve(engine: Path, folder: Path, backend: str) -> TritonServer:
    # Requests that together would not fit to their ends must all run.
    runtime = RuntimeOptions(kv_cache_bytes=1 << 30, policy="MAX_UTILIZATION")
    model = ModelOptions(str(engine), runtime=runtime)
    options = TrtllmOptions(model, is_native=backend == "native")
    return TritonServer(write_repository(folder, options), FREE_PORTS)


@pytest.fixture(scope="module", params=["python", "native"])
def server(
    request: pytest.FixtureRequest, engine: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with serve(engine, tmp_path_factory.mktemp("repository"), request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing(server: TritonServer) -> Iterator[None]:
    """The same answer to a text and the same number of free blocks before and after."""
    before = answer(server)
    wait_until(lambda: num_active(server) == 0, "nothing in flight before")
    free = num_free_blocks(server)
    yield
    wait_until(lambda: num_active(server) == 0, "nothing in flight after")
    wait_until(lambda: num_free_blocks(server) == free, "all blocks free again")
    assert answer(server) == before


def answer(server: TritonServer) -> Any:
    (response,) = ask(server, CHECK)
    return response["text_output"].tolist()


def tensor(name: str, data_type: str, values: Sequence[Any]) -> tuple[str, str, list[int], bytes]:
    """One row of an input as a raw request has it."""
    code = {"INT32": "i", "BOOL": "?"}[data_type]
    return name, data_type, [1, len(values)], struct.pack(f"<{len(values)}{code}", *values)


def ids_request(max_tokens: int, *, streaming: bool) -> Any:
    return raw_request(
        [
            tensor("input_ids", "INT32", [5, 6, 7]),
            tensor("input_lengths", "INT32", [3]),
            tensor("request_output_len", "INT32", [max_tokens]),
            tensor("end_id", "INT32", [-1]),
            tensor("streaming", "BOOL", [streaming]),
        ],
        TENSORRT_LLM,
    )


@pytest.mark.parametrize(
    ("model", "request_"), [(TENSORRT_LLM, LASTING_IDS), (BLS, LASTING_TEXT)], ids=["ids", "bls"]
)
def test_clients_that_leave_their_streams(
    model: str, request_: dict[str, Any], server: TritonServer
) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, model)) for _ in range(6)]
        for stream in streams:
            stream.submit(request_)
        for stream in streams:
            stream.next()
        assert num_active(server) == 6


def test_reader_that_stops_reading_holds_up_nobody(server: TritonServer) -> None:
    with SilentGrpcStream(server, ids_request(6000, streaming=True)) as silent:
        silent.read_one()
        first = answer(server)
        assert [answer(server) for _ in range(5)] == [first] * 5
        wait_until(lambda: num_active(server) == 0, "the runtime is done with it")


# (input, data type, shape, bytes) in place of a sound one -> words of the answer.
MALFORMED: dict[str, tuple[tuple[str, str, list[int], bytes], str]] = {
    "another type": (("input_ids", "FP32", [1, 3], b"\0" * 12), "input_ids"),
    "too few bytes": (("input_ids", "INT32", [1, 3], b"\0" * 4), "input_ids"),
    "too many bytes": (("input_ids", "INT32", [1, 3], b"\0" * 400), "input_ids"),
    "no batch dimension": (("input_ids", "INT32", [3], b"\0" * 12), "input_ids"),
    "empty": (("input_ids", "INT32", [1, 0], b""), "input_ids"),
    "negative length": (tensor("input_lengths", "INT32", [-1]), "input_lengths"),
    "longer than it is": (tensor("input_lengths", "INT32", [2**31 - 1]), "input_lengths"),
    "no such token": (tensor("input_ids", "INT32", [5, 2**31 - 1, -7]), "token"),
    "negative output": (tensor("request_output_len", "INT32", [-(2**31)]), "max_tokens"),
    "two values": (tensor("end_id", "INT32", [1, 2]), "end_id"),
}


def test_malformed_tensors_are_refused_by_name(server: TritonServer) -> None:
    with contextlib.closing(RawGrpc(server)) as client:
        for name, (changed, reason) in MALFORMED.items():
            request = ids_request(2, streaming=False)
            place = next(i for i, each in enumerate(request.inputs) if each.name == changed[0])
            replacement = raw_request([changed])
            request.inputs[place].CopyFrom(replacement.inputs[0])
            request.raw_input_contents[place] = replacement.raw_input_contents[0]
            (response,) = client.stream(request.SerializeToString())
            assert reason in response.error_message, name


def test_damaged_messages_are_answered(server: TritonServer) -> None:
    draw = random.Random(10)
    sound = ids_request(2, streaming=False).SerializeToString()
    with contextlib.closing(RawGrpc(server)) as client:
        assert not client.stream(sound)[0].error_message
        for _ in range(100):
            damaged = bytearray(sound)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            with contextlib.suppress(grpc.RpcError):
                client.stream(bytes(damaged[: draw.randint(0, len(damaged))]))
        assert not client.stream(sound)[0].error_message


def test_texts_of_any_bytes_are_answered(server: TritonServer) -> None:
    draw = random.Random(11)
    for _ in range(10):
        text = bytes(draw.randrange(256) for _ in range(draw.randint(1, 40)))
        request = {**CHECK, "text_input": np.array([[text]], np.object_)}
        with contextlib.suppress(Failed):  # what is not UTF-8; nobody waits for ever
            ask(server, request)
