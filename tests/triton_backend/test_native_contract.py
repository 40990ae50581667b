# SPDX-License-Identifier: Apache-2.0
"""The tables of the Python backend are those that the native backend has in C++.

Both sides are compared with one golden file, here and in
tests/cpp/triton_backend/triton_contract_test.cc. After a change in Python run this file as a module
to write it anew (python -m tests.triton_backend.test_native_contract), then follow in C++.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from enginery.triton_backend import metric_families as table
from enginery.triton_backend import options, requests
from enginery.triton_backend.native_backend import PYTHON_PARAMETERS
from enginery.triton_backend.tensors import INPUTS, OUTPUTS
from tests.triton_backend.test_options import ALL

GOLDEN = Path(__file__).parent / "golden" / "native_contract.txt"


def contract() -> Iterator[str]:
    """One line per entry of a table."""
    for spec in INPUTS:
        yield f"input {spec.name} {spec.data_type} {spec.dims[0]} {spec.option or '-'}"
    for spec in OUTPUTS:
        needed = "optional" if spec.is_optional else "required"
        yield f"output {spec.name} {spec.data_type} {spec.dims[0]} {needed}"
    for name, (neutral, reason) in requests._UNSUPPORTED.items():
        (off,) = neutral or (None,)
        yield f"unsupported {name} {'-' if off is None else json.dumps(off)} {reason}"
    names = {*options._OWN_PARAMETERS, *options._RUNTIME_PARAMETERS}
    for name in sorted(names - set(PYTHON_PARAMETERS)):
        yield f"parameter {name}"
    for name in sorted(PYTHON_PARAMETERS):
        yield f"python_parameter {name}"
    for kind, families in (("gauge", table.GAUGES), ("counter", table.COUNTERS)):
        for family in families:
            yield f"{kind}s {family.name} {family.label or '-'} {family.help}"
            for value in family.values:
                yield f"{kind} {family.name} {value or '-'}"
    for histogram in table.HISTOGRAMS:
        labels = f"{histogram.label or '-'} {histogram.label_value or '-'}"
        yield f"histogram {histogram.name} {labels} {histogram.help}"
        yield f"buckets {histogram.name} {histogram.buckets}"
    yield f"timestamp {table.TIMESTAMP} {table.TIMESTAMP_HELP}"


def test_golden_file_has_the_tables() -> None:
    assert GOLDEN.read_text().splitlines() == list(contract())


def test_python_parameters_are_parameters() -> None:
    assert set(PYTHON_PARAMETERS) <= set(ALL.to_parameters())


if __name__ == "__main__":
    GOLDEN.write_text("".join(f"{line}\n" for line in contract()))
