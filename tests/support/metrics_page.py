# SPDX-License-Identifier: Apache-2.0
"""Reads Triton server's `/metrics`, and checks that it has the table's metrics and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginery.triton_backend.metric_families import (
    COUNTER,
    GAUGE,
    HISTOGRAMS,
    TIMESTAMP,
    TIMESTAMP_HELP,
    HistogramFamily,
)
from enginery.triton_backend.metrics import all_series
from enginery.triton_backend.server import TritonServer

from .triton import MODEL, grpc_stream, metrics, num_active, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

_OURS = re.compile(r"(enginery_|nv_trt_llm_|nv_llm_)\w+")
_SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class Page:
    """The metrics of the runtime on one page.

    Args:
        text: of `/metrics`.
        model: whose metrics all must be.
    """

    def __init__(self, text: str, model: str) -> None:
        self.samples: Samples = {}
        self.kinds: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        for line in text.splitlines():
            if line.startswith("# "):
                _, what, name, said = line.split(" ", 3)
                if _OURS.fullmatch(name):
                    (self.kinds if what == "TYPE" else self.helps)[name] = said
            elif _OURS.match(line):
                found = _SAMPLE.fullmatch(line)
                assert found, line
                labels = dict(_LABEL.findall(found[2]))
                assert labels.pop("model") == model
                assert labels.pop("version") == "1"
                self.samples[found[1], frozenset(labels.items())] = float(found[3])

    def value(self, name: str, **labels: str) -> float:
        """Of the metric with these labels of its own."""
        return self.samples[name, frozenset(labels.items())]

    def assert_is_the_table(self) -> None:
        """Names, kinds, descriptions and labels, each metric once and no others."""
        series = list(all_series())
        expected = [(each.name, frozenset(each.labels.items())) for each in series]
        assert self.samples.keys() == {*expected, (TIMESTAMP, frozenset())}
        kinds = {each.name: each.kind for each in series}
        assert self.kinds == kinds | {TIMESTAMP: GAUGE}
        assert set(kinds.values()) == {GAUGE, COUNTER}
        helps = {each.name: each.help for each in series}
        assert self.helps == helps | {TIMESTAMP: TIMESTAMP_HELP}

    def assert_is_sound(self) -> None:
        """What holds on every page while nothing is running."""
        for family in HISTOGRAMS:
            counts = [self.bucket(family, bound) for bound in (*family.buckets.split(), "+Inf")]
            assert counts == sorted(counts)
            own = _own_labels(family)
            assert counts[-1] == self.value(f"{family.name}_count", **own)
        name = "nv_trt_llm_kv_cache_block_metrics"
        blocks = {
            value: self.value(name, kv_cache_block_type=value)
            for value in ("max", "used", "free", "fraction", "tokens_per")
        }
        assert blocks["used"] + blocks["free"] == blocks["max"] > 0
        assert blocks["fraction"] == blocks["used"] / blocks["max"]
        assert blocks["tokens_per"] == 16
        assert self.value("nv_trt_llm_request_metrics", request_type="max") == 16
        memory = "nv_trt_llm_runtime_memory_metrics"
        assert self.value(memory, memory_type="cpu") > self.value(memory, memory_type="gpu") == 0
        steps = self.value("enginery_iterations_total")
        assert self.value("nv_trt_llm_general_metrics", general_type="iteration_counter") == steps
        step_seconds = self.value("enginery_step_seconds_total")
        assert step_seconds >= self.value("enginery_scheduler_seconds_total") > 0

    def bucket(self, family: HistogramFamily, bound: str) -> float:
        """How many values are at most `bound`."""
        return self.value(f"{family.name}_bucket", **_own_labels(family), le=bound)

    def grown(self, before: Page) -> Samples:
        """What is more than on an earlier page."""
        return {
            key: value - before.samples[key]
            for key, value in self.samples.items()
            if self.kinds[key[0]] == COUNTER and value != before.samples[key]
        }


def assert_counts_what_is_served(server: TritonServer) -> None:
    """Sends a stream, a whole answer and a bad request, and finds them on the page."""

    def page() -> Page:
        wait_until(lambda: num_active(server) == 0, "nothing in flight")
        return Page(metrics(server), MODEL)

    before = page()
    request = {"input_ids": [1, 2, 3], "ignore_eos": True}
    grpc_stream(server, {**request, "max_tokens": 40, "stream": True})
    grpc_stream(server, {**request, "max_tokens": 123})
    assert "top_k = -1" in grpc_stream(server, {**request, "top_k": -1})[0]["error"]
    after = page()
    after.assert_is_the_table()
    after.assert_is_sound()
    assert_served(before, after, num_streamed=40, num_whole=123, num_prompt_tokens=3)


def assert_served(
    before: Page, after: Page, *, num_streamed: int, num_whole: int, num_prompt_tokens: int
) -> None:
    """One request that streamed, one that did not, both to max_tokens, and one that was refused.

    Args:
        before: of an idle server.
        after: when it is idle again.
        num_streamed: tokens of the one that streamed.
        num_whole: tokens of the other.
        num_prompt_tokens: of each.
    """
    grown = after.grown(before)

    def by(name: str, labels: Mapping[str, str] | None = None) -> float:
        return grown.get((name, frozenset((labels or {}).items())), 0)

    num_tokens = num_streamed + num_whole
    for name, num_values in (
        ("enginery_time_to_first_token_seconds", 2),
        ("enginery_request_queue_time_seconds", 2),
        ("enginery_e2e_request_latency_seconds", 2),
        ("enginery_time_per_output_token_seconds", 2),
        ("enginery_inter_token_latency_seconds", num_streamed - 1),
        ("enginery_request_prompt_tokens", 2),
        ("enginery_request_generation_tokens", 2),
    ):
        assert by(f"{name}_count") == num_values, name
        assert by(f"{name}_sum") > 0
    assert by("enginery_request_prompt_tokens_sum") == 2 * num_prompt_tokens
    assert by("enginery_request_generation_tokens_sum") == num_tokens
    assert by("enginery_generation_tokens_total") == num_tokens
    own = {"response_metric_type": "total_output_tokens"}
    assert by("nv_llm_output_token_len_sum", own) == num_tokens
    own = {"response_metric_type": "total_input_tokens"}
    assert by("nv_llm_input_token_len_sum", own) == 2 * num_prompt_tokens
    by_label = {
        key: value
        for key, value in grown.items()
        if key[0] in ("enginery_request_finish_reasons_total", "enginery_request_errors_total")
    }
    assert by_label == {
        (
            "enginery_request_finish_reasons_total",
            frozenset({("finish_reason", "length")}),
        ): 2,
        (
            "enginery_request_errors_total",
            frozenset({("cause", "invalid_argument")}),
        ): 1,
    }


def _own_labels(family: HistogramFamily) -> dict[str, str]:
    return {family.label: family.label_value} if family.label else {}
