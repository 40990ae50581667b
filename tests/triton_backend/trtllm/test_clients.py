# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enginery.triton_backend.trtllm.clients import BatchSender, RequestNames, RowClient
from tests.support.events import event

FINAL = 1
PB_UTILS = SimpleNamespace(
    TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
    Tensor=lambda name, array: (name, array.tolist()),
    InferenceResponse=lambda tensors=(), error=None: error or dict(tensors),
    TritonError=type("TritonError", (str,), {"INTERNAL": 5, "__new__": lambda c, t, _: str(t)}),
)


class FakeSender:
    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.is_gone = False

    def send(self, response: Any, flags: int) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return self.is_gone


class FakeWriter:
    def tensors(self, happened: Any) -> dict[str, Any] | None:
        ids = happened.token_ids
        return {"output_ids": np.array(ids)} if ids else None


@pytest.fixture
def sender() -> FakeSender:
    return FakeSender()


def clients(sender: FakeSender, count: int) -> tuple[BatchSender, list[RowClient]]:
    batch = BatchSender(PB_UTILS, sender, count)
    writer: Any = FakeWriter()
    return batch, [RowClient(PB_UTILS, batch, writer, RequestNames("id", "")) for _ in range(count)]


def test_the_last_row_ends_the_request(sender: FakeSender) -> None:
    _, (first, second) = clients(sender, 2)
    second.send(event(token_ids=[1]))
    second.send(event(token_ids=[2], is_last=True))
    first.send(event(token_ids=[3], is_last=True))
    assert [flags for _, flags in sender.sent] == [0, 0, FINAL]


def test_nothing_is_sent_for_tokens_that_wait(sender: FakeSender) -> None:
    _, (client,) = clients(sender, 1)
    client.send(event())
    assert sender.sent == []


def test_a_row_may_fail_alone(sender: FakeSender) -> None:
    _, (first, second) = clients(sender, 2)
    first.send(event(finish_reason="ERROR", status="INTERNAL", error="why", is_last=True))
    second.send(event(token_ids=[1], is_last=True))
    assert sender.sent == [("INTERNAL: why", 0), ({"output_ids": [1]}, FINAL)]


def test_a_request_that_failed_as_a_whole_is_silent(sender: FakeSender) -> None:
    batch, (first, _) = clients(sender, 2)
    batch.fail()
    first.send(event(token_ids=[1], is_last=True))
    assert sender.sent == []
    sender.is_gone = True
    assert not first.is_gone()


def test_gone_until_answered(sender: FakeSender) -> None:
    _, (first, second) = clients(sender, 2)
    assert not first.is_gone()
    sender.is_gone = True
    first.send(event(token_ids=[1], is_last=True))
    assert second.is_gone()
    second.send(event(token_ids=[1], is_last=True))
    assert not second.is_gone()


@pytest.mark.parametrize(
    ("names", "asked", "is_meant"),
    [
        (("7", ""), ("7", ""), True),
        (("7", ""), ("8", ""), False),
        (("7", "a"), ("7", ""), True),  # a client stops what it asked the BLS model for
        (("7", "a"), ("7", "a"), True),
        (("7", "b"), ("7", "a"), False),  # the BLS model stops one of several with an id
        (("7", ""), ("7", "a"), False),
    ],
)
def test_what_a_request_to_stop_means(
    names: tuple[str, str], asked: tuple[str, str], is_meant: bool
) -> None:
    assert RequestNames(*names).are_asked_for(RequestNames(*asked)) is is_meant
