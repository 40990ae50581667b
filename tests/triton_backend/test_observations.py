# SPDX-License-Identifier: Apache-2.0
"""What events say is added up as the golden file has it.

The native backend is compared with the same file, in
tests/cpp/triton_backend/triton_observations_test.cc.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from enginery.triton_backend.metric_families import HISTOGRAMS
from enginery.triton_backend.observations import Observations
from enginery.triton_backend.readings import Observed
from tests.support.events import golden_event

GOLDEN = Path(__file__).parent / "golden" / "observations.txt"
GIVEN = ("event", "refused")


def lines() -> list[str]:
    return [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]


def shown(observed: Observed) -> Iterator[str]:
    for reason, count in observed.finish_reasons.items():
        yield f"finish {reason} {count}"
    for cause, count in observed.errors.items():
        yield f"cause {cause} {count}"
    for family in HISTOGRAMS:
        seen = observed.histograms[family.name]
        names = [*family.buckets.split(), "+Inf"]
        buckets = [f" {name} {n}" for name, n in zip(names, seen.counts, strict=True) if n]
        yield f"histogram {family.name} {seen.sum:.6f}{''.join(buckets)}"


def test_sums_are_those_of_the_golden_file() -> None:
    observations = Observations()
    untouched = observations.read()
    for line in lines():
        kind, *fields = line.split()
        if kind == "event":
            observations.add([golden_event(fields)])
        elif kind == "refused":
            observations.add_error(fields[0])
    expected = [line for line in lines() if line.split()[0] not in GIVEN]
    assert list(shown(observations.read())) == expected
    # A copy does not follow.
    assert not any(sum(seen.counts) for seen in untouched.histograms.values())
    # Nothing is kept of requests that have ended.
    assert not observations._requests
