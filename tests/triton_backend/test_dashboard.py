# SPDX-License-Identifier: Apache-2.0
"""docs/grafana-dashboard.json asks for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from enginery.triton_backend.metrics import all_series

DOCS = Path(__file__).parents[2] / "docs"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())
QUERIES = {
    f"{panel['title']}, {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
SELECTOR = re.compile(r"([a-z_0-9]+)\{([^}]*)\}")
GROUPING = re.compile(r"sum by \(([a-z_]+)\)")


def labels_of(name: str) -> dict[str, set[str]]:
    """Labels of a family of their own, with the values that they take; empty: no such family."""
    found: dict[str, set[str]] = {}
    for series in all_series():
        if series.name == name:
            found.setdefault("model", set())
            for label, value in series.labels.items():
                found.setdefault(label, set()).add(value)
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_query(name: str) -> None:
    query = QUERIES[name]
    assert query.count("(") == query.count(")")
    selectors = SELECTOR.findall(query)
    assert len(selectors) == query.count("{") > 0
    for family, matchers in selectors:
        labels = labels_of(family)
        assert labels, f"{family}: there is no such metric"
        for label, operator, value in re.findall(r'([a-z_]+)(=~?)"([^"]*)"', matchers):
            assert label in labels
            assert operator == "=~" or value in labels[label]
        for label in GROUPING.findall(query):
            assert label in labels
        if "histogram_quantile" in query:
            assert family.endswith("_bucket")
            assert "sum by (le)" in query


def test_grafana_takes_it() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert DASHBOARD["schemaVersion"] >= 36
    places = [tuple(panel["gridPos"][side] for side in "xy") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", " ".join(QUERIES.values()) + "${datasource}"))
    assert used == variables
    (query,) = [
        v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["name"] == "model"
    ]
    assert labels_of(re.findall(r"\((\w+),", query)[0])


def test_every_question_has_a_panel() -> None:
    asked = " ".join(QUERIES.values())
    for name in (
        "enginery_time_to_first_token_seconds_bucket", "enginery_generation_tokens_total",
        "enginery_time_per_output_token_seconds_bucket",
        "enginery_inter_token_latency_seconds_bucket",
        "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics",
        "enginery_num_preemptions_total", "enginery_request_finish_reasons_total",
        "enginery_request_errors_total", "enginery_step_time_seconds_bucket",
    ):  # fmt: skip
        assert name in asked


def test_prometheus_scrapes_the_port_that_serve_opens() -> None:
    text = (DOCS / "prometheus.yml").read_text()
    assert "metrics_path: /metrics" in text
    assert '["localhost:8002"]' in text
