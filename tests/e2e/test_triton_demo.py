# SPDX-License-Identifier: Apache-2.0
"""What `make demo` runs, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def test_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gRPC and HTTP gave the same text. The server ended cleanly" in done.stdout
    for word in ("TTFT ms", "TPOT ms", "tokens/s", "int8_dynamic", "And it came to pass"):
        assert word in done.stdout
    assert done.stderr == ""
