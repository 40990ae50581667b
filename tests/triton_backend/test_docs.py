# SPDX-License-Identifier: Apache-2.0
"""docs/triton.md lists the tensors, metrics and parameters that there are, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from enginery.cli import serve
from enginery.cli.config_file import to_toml
from enginery.cli.flags import FlagParser
from enginery.triton_backend import tensors
from enginery.triton_backend.metric_families import (
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    TIMESTAMP,
    TIMESTAMP_HELP,
)
from enginery.triton_backend.trtllm.options import BlsOptions
from enginery.triton_backend.trtllm.repository import ensemble_inputs, ensemble_outputs
from enginery.triton_backend.trtllm.tensors import BLS_INPUTS, INPUTS, OUTPUTS, InputSpec
from tests.triton_backend.test_options import ALL

PAGE = (Path(__file__).parents[2] / "docs" / "triton.md").read_text(encoding="utf-8")

TABLES: dict[str, Iterable[tensors.TensorSpec]] = {
    "`ensemble`: inputs": ensemble_inputs(),
    "`ensemble`: outputs": ensemble_outputs(),
    "`tensorrt_llm_bls`: inputs besides those of `ensemble`": BLS_INPUTS,
    "`enginery`: inputs": tensors.INPUTS,
    "`enginery`: outputs": tensors.OUTPUTS,
    **{f"`{step}`: inputs": specs for step, specs in INPUTS.items()},
    **{f"`{step}`: outputs": specs for step, specs in OUTPUTS.items()},
}


def rows(title: str) -> list[str]:
    """The rows of the table under a heading, without its head."""
    (section,) = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    return [line for line in section.splitlines() if line.startswith("| ")][1:]


def row(spec: tensors.TensorSpec) -> str:
    dims = "" if spec.dims == (1,) else f"[{', '.join(map(str, spec.dims))}]"
    doc = spec.doc
    if isinstance(spec, InputSpec) and spec.refusal:
        shown = [str(v).lower() if isinstance(v, bool) else str(v) for v in spec.off]
        off = [f"`{text}`" if text else "empty" for text in shown]
        off += [] if spec.dims == (1,) else ["no elements"]
        doc = f"{doc} (off: {', '.join(off)})"
    return f"| `{spec.name}` | {spec.data_type}{dims} | {doc} |"


@pytest.mark.parametrize("title", TABLES)
def test_tensors(title: str) -> None:
    assert rows(title) == [row(spec) for spec in TABLES[title]]


def metric_rows() -> Iterable[str]:
    for kind, families in (("gauge", GAUGES), ("counter", COUNTERS)):
        for family in families:
            values = ", ".join(f"`{value}`" for value in family.values)
            label = f"; label `{family.label}`: {values}" if family.label else ""
            yield f"| `{family.name}` | {kind} | {family.help}{label} |"
    for histogram in HISTOGRAMS:
        label = f"; label `{histogram.label}`: `{histogram.label_value}`" if histogram.label else ""
        yield f"| `{histogram.name}` | histogram | {histogram.help}{label} |"
    yield f"| `{TIMESTAMP}` | gauge | {TIMESTAMP_HELP} |"


def test_metrics() -> None:
    assert rows("Metrics") == list(metric_rows())
    for file in ("prometheus.yml", "grafana-dashboard.json"):
        assert f"({file})" in PAGE


def test_parameters() -> None:
    keys = {key for line in rows("Parameters") for key in re.findall("`(.*?)`", line.split("|")[2])}
    own = {"exclude_input_in_output", "add_special_tokens", "skip_special_tokens"}
    own |= BlsOptions().to_parameters().keys()
    assert keys == ALL.to_parameters().keys() | own


def option_row(action: argparse.Action) -> str:
    default = "none" if action.default is None else f"`{to_toml(action.default)}`"
    text = (action.help or "").replace(" (%(default)s)", "").replace("%%", "%")
    return f"| `{action.dest}` | {default} | {text} |"


def test_configuration_file() -> None:
    parser = FlagParser()
    serve.add_arguments(parser)
    options = [action for _, group in parser.config_groups() for action in group]
    assert rows("Configuration file") == [option_row(action) for action in options]
