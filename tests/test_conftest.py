# SPDX-License-Identifier: Apache-2.0
"""The rule on skipped tests, tried on a suite of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
CONFIG = "[pytest]\nmarkers =\n    gpu: needs a GPU\n    slow: takes minutes\n"


def run_suite(folder: Path, source: str, is_ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(CONFIG)
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_example.py").write_text("import pytest\n" + source)
    environment = dict(os.environ) | {"CI": "true" if is_ci else ""}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPED = "def test_it():\n    pytest.skip('no such thing')\n"
SKIPPED_BY_MARK = "@pytest.mark.skip(reason='no such thing')\ndef test_it(): pass\n"
MODULE_SKIPPED = "pytest.skip('no such thing', allow_module_level=True)\n"


@pytest.mark.parametrize("source", [SKIPPED, SKIPPED_BY_MARK, MODULE_SKIPPED])
def test_a_skip_fails_in_ci_with_its_reason(tmp_path: Path, source: str) -> None:
    ran = run_suite(tmp_path, source, is_ci=True)
    assert ran.returncode in (1, 2)
    assert "no such thing" in ran.stdout
    assert "test_example.py" in ran.stdout


@pytest.mark.parametrize("marker", ["gpu", "slow"])
def test_a_marked_test_may_skip_in_ci(tmp_path: Path, marker: str) -> None:
    ran = run_suite(tmp_path, f"@pytest.mark.{marker}\n{SKIPPED}", is_ci=True)
    assert ran.returncode == 0
    assert "1 skipped" in ran.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    source = "@pytest.mark.xfail\ndef test_it(): assert False\n"
    ran = run_suite(tmp_path, source, is_ci=True)
    assert ran.returncode == 0
    assert "1 xfailed" in ran.stdout


def test_a_skip_passes_elsewhere(tmp_path: Path) -> None:
    assert run_suite(tmp_path, SKIPPED, is_ci=False).returncode == 0
