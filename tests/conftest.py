# SPDX-License-Identifier: Apache-2.0
"""Rules of the whole suite.

In continuous integration (`CI=true`) a test that skips itself fails: what an unmarked test needs
must be there, or the suite would pass by not running. Tests marked `gpu` or `slow` may skip.

The process that runs the tests interprets Triton-language kernels; a test that compiles some starts
a process for it (`enginery.plugins.kernels.spec`). What it compiles is kept in build/test-cache.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from enginery.plugins.kernels import spec

spec.use_interpreter()
os.environ["ENGINERY_CACHE_DIR"] = str(Path(__file__).parents[1] / "build" / "test-cache")

MAY_SKIP = ("gpu", "slow")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")


def _fail_instead(report: pytest.TestReport | pytest.CollectReport) -> None:
    where = report.longrepr
    reason = where[2] if isinstance(where, tuple) else str(where)
    report.outcome = "failed"
    report.longrepr = (
        f"{report.nodeid}: {reason}\nA skip outside the markers {MAY_SKIP} fails in CI."
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    is_xfail = hasattr(report, "wasxfail")
    may_skip = any(item.get_closest_marker(marker) for marker in MAY_SKIP)
    if IN_CI and report.skipped and not is_xfail and not may_skip:
        _fail_instead(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.outcome == "skipped":  # a whole module: pytest.importorskip at its top
        _fail_instead(report)
    return report
