# SPDX-License-Identifier: Apache-2.0
"""The process in which TensorRT runs, seen from outside: jobs in, plans or reasons out.

A job and its answer are one line of JSON each; models and plans pass through files in a folder of
the process's own. The process is started with the first job.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = "enginery.builder.targets.tensorrt.plan_worker"
STDERR_TAIL = 2000  # characters of what a worker said before it died


@dataclass(frozen=True)
class BuiltPlan:
    """What the worker built: the plan and the wall time it took."""

    data: bytes
    seconds: float


class PlanProcess:
    """A worker process; a context manager that ends it.

    Args:
        package: the TensorRT to import there, "tensorrt_rtx" or "tensorrt".
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self._folder = tempfile.TemporaryDirectory(prefix="enginery-plans-")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> PlanProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            assert self._process.stdin and self._process.stdout
            try:
                self._process.stdin.close()  # the worker ends with its input
                self._process.wait(timeout=10)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
        self._folder.cleanup()

    @classmethod
    def probe(cls, package: str) -> tuple[int, int] | None:
        """Compute capability of the GPU that `package` works with here, or None."""
        with cls(package) as process:
            answer = process._ask({"probe": True})
        if isinstance(answer, str) or "capability" not in answer:
            return None
        major, minor = answer["capability"]
        return major, minor

    def build(
        self,
        content: bytes,
        capability: tuple[int, int],
        profiles: Sequence[tuple[int, int, int]],
    ) -> BuiltPlan | str:
        """Builds a plan.

        Args:
            content: ONNX model with one dynamic dimension.
            capability: compute capability of the GPU.
            profiles: (min, opt, max) of the dynamic dimension.

        Returns:
            The plan, or why there is none: TensorRT's own words, or how its process died.
        """
        model, plan = Path(self._folder.name, "segment.onnx"), Path(self._folder.name, "plan")
        model.write_bytes(content)
        answer = self._ask(
            {
                "model": str(model),
                "plan": str(plan),
                "capability": list(capability),
                "profiles": [list(profile) for profile in profiles],
            }
        )
        if isinstance(answer, str):
            return answer
        if "error" in answer:
            return str(answer["error"])
        return BuiltPlan(plan.read_bytes(), float(answer["seconds"]))

    def _ask(self, question: dict[str, Any]) -> dict[str, Any] | str:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return self._death()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        with self._stderr.open("w") as stderr:
            return subprocess.Popen(
                # -P: what lies in the working directory is not to be imported.
                [sys.executable, "-P", "-m", WORKER, self.package],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @property
    def _stderr(self) -> Path:
        return Path(self._folder.name, "stderr")

    def _death(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        said = self._stderr.read_text(errors="replace")[-STDERR_TAIL:].strip()
        return f"its process ended with {how}" + (f": {said}" if said else "")
