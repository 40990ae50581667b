# SPDX-License-Identifier: Apache-2.0
"""Inputs drawn at random from the tensors' table: answered, or refused by the input's own name."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from enginery.runtime.runtime import RuntimeOptions
from enginery.triton_backend.native_backend import NativeOptions
from enginery.triton_backend.options import ModelOptions
from enginery.triton_backend.repository import write_repository
from enginery.triton_backend.server import TritonServer
from enginery.triton_backend.tensors import INPUTS, TensorSpec
from tests.support.hostile_clients import RawGrpc, raw_request
from tests.support.triton import FREE_PORTS, MODEL, build_lasting_engine, grpc_stream

Input = tuple[str, str, Sequence[int], bytes]
_TYPES = {"STRING": "BYTES"}
_SPECS = [spec for spec in INPUTS if spec.name != "input_ids"]
# Other names under which an error may speak of an input: the option it sets, the request's field.
_ALIASES = {
    "max_tokens": ("request_output_len",),
    "request_output_len": ("max_tokens",),
    "stop_words": ("stop_strings",),
    "bad_words": ("bad_token_sequences",),
    "stream": ("streaming",),
    "streaming": ("stream",),
    "end_id": ("stop_token_ids",),
    "text_input": ("prompt", "input_ids"),
}


def _encode(data_type: str, values: Sequence[Any]) -> bytes:
    if data_type == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    dtype = {"INT32": "<i4", "INT64": "<i8", "UINT64": "<u8", "FP32": "<f4", "BOOL": "?"}[data_type]
    return np.array(values, dtype).tobytes()


def _values(data_type: str) -> st.SearchStrategy[Any]:
    texts = st.one_of(
        st.binary(max_size=40),
        st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from(
            [b'{"top_k": -1}', b'{"n": 99}', b"{}", b"null", b"[[[[", b'{"seed": 1e99}']
        ),
    )
    return {
        "BYTES": texts,
        # A long answer is no fault: what asks for one would only make the test slow.
        "INT32": st.one_of(st.integers(-5, 40), st.sampled_from([-(2**31), 2**31 - 1])),
        "INT64": st.one_of(st.integers(-5, 5), st.sampled_from([-(2**63), 2**63 - 1])),
        "UINT64": st.one_of(st.integers(0, 5), st.sampled_from([2**63, 2**64 - 1])),
        "FP32": st.floats(width=32),
        "BOOL": st.booleans(),
    }[data_type]


@st.composite
def _typed(draw: st.DrawFn, spec: TensorSpec) -> Input:
    """An input of its own type, with any values and perhaps too many or none."""
    data_type = _TYPES.get(spec.data_type, spec.data_type)
    sizes = (0, 4) if spec.dims == (-1,) else (1, 1)
    values = draw(st.lists(_values(data_type), min_size=sizes[0], max_size=sizes[1]))
    return spec.name, data_type, [len(values)], _encode(data_type, values)


@st.composite
def _untyped(draw: st.DrawFn, spec: TensorSpec) -> Input:
    """An input of any type, shape and bytes, none of which need fit another."""
    types = ["BYTES", "INT32", "INT64", "UINT64", "FP32", "BOOL", "FP16", "nonsense", ""]
    shape = draw(st.lists(st.integers(-2, 3) | st.sampled_from([2**31, 2**62]), max_size=3))
    return spec.name, draw(st.sampled_from(types)), shape, draw(st.binary(max_size=24))


@pytest.fixture(scope="module", params=["python", "native"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    engine = build_lasting_engine(tmp_path_factory.mktemp("engine"))
    options = ModelOptions(str(engine), runtime=RuntimeOptions(kv_cache_bytes=1 << 28))
    chosen = NativeOptions(options) if request.param == "native" else options
    repository = write_repository(tmp_path_factory.mktemp("repository"), chosen, MODEL)
    with TritonServer(repository, FREE_PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[RawGrpc]:
    with contextlib.closing(RawGrpc(server)) as opened:
        yield opened


def _error(client: RawGrpc, chosen: Sequence[Input]) -> str:
    """What a request with the inputs is answered with: an error's text, or "" for tokens."""
    prompt: list[Input] = [("input_ids", "INT32", [1], struct.pack("<i", 5))]
    if any(name == "text_input" for name, *_ in chosen):
        prompt = []
    elif not any(name in ("max_tokens", "request_output_len") for name, *_ in chosen):
        prompt.append(("max_tokens", "INT32", [1], struct.pack("<i", 4)))
    responses = client.stream(raw_request([*prompt, *chosen]).SerializeToString())
    assert responses, "no answer"
    error = str(responses[-1].error_message)
    event("refused" if error else "answered")
    return error


def _names(error: str, name: str) -> bool:
    if name == "sampling_parameters" and any(spec.option and spec.name in error for spec in INPUTS):
        return True  # it sets what that input would
    spec = next(spec for spec in INPUTS if spec.name == name)
    return any(word in error for word in (name, spec.option or name, *_ALIASES.get(name, ())))


_SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_SETTINGS
@given(data=st.data())
def test_a_value_is_taken_or_refused_by_name(client: RawGrpc, data: st.DataObject) -> None:
    specs = data.draw(st.lists(st.sampled_from(_SPECS), min_size=1, max_size=2, unique=True))
    chosen = [data.draw(_typed(spec)) for spec in specs]
    error = _error(client, chosen)
    assert "INTERNAL" not in error
    assert "Error: " not in error, "an exception that nobody meant for clients"
    assert not error or any(_names(error, name) for name, *_ in chosen), (chosen, error)


@_SETTINGS
@given(data=st.data())
def test_what_does_not_fit_together_is_answered(client: RawGrpc, data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(INPUTS))
    chosen = data.draw(_untyped(spec))
    error = _error(client, [chosen])
    assert "INTERNAL" not in error
    assert "Error: " not in error, "an exception that nobody meant for clients"
    assert not error or _names(error, spec.name), (chosen, error)


def test_it_still_serves(server: TritonServer) -> None:
    """After all of the above, on the same server."""
    assert grpc_stream(server, {"input_ids": [1], "max_tokens": 3, "ignore_eos": True})
    with contextlib.closing(grpc_client.InferenceServerClient(server.grpc_url)) as asking:
        assert asking.is_model_ready(MODEL)
