# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Where the time of a step goes: every kernel of decode steps and of a long prefill, by events.

    python -m benchmarks.gpu.kernel_times ENGINE

Steps are enqueued launch by launch behind a delay that covers the host's work, with an event
before each launch, so that the time between two events is one kernel's on the GPU (and about a
microsecond of the event). Kernels are grouped by what they compute. Outcomes go to
$OUT/outcomes.jsonl.
"""

from __future__ import annotations

import argparse
import faulthandler
import functools
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.steps import Outcome, Steps
from enginery.bench.client import LoadClient
from enginery.bench.workload import Span, random_requests
from enginery.runtime.batch import ScheduledBatch
from enginery.runtime.engine import Engine
from enginery.runtime.executor import StepOutput
from enginery.runtime.executors.cuda.device import CudaDevice
from enginery.runtime.executors.cuda.executor import TensorRTExecutor
from enginery.runtime.executors.cuda.kernel import CudaKernel
from enginery.runtime.executors.device import Argument, View
from enginery.runtime.executors.image import KernelImage
from enginery.runtime.runtime import Runtime, RuntimeOptions

LABEL_CONSTANTS = ("WEIGHT", "N", "F", "K", "BLOCK_M", "BLOCK_N", "BLOCK_K")
DELAY_BYTES = 1 << 30
DELAY_COPIES = 40  # about 30 ms at 3 TB/s
LIMIT_S = 40


class ProfilingDevice(CudaDevice):
    """A GPU that notes an event before every launch while `is_recording`."""

    def __init__(self) -> None:
        # Kernels must not begin before their event.
        super().__init__(0, cuda_graphs=False, programmatic_launch=False)
        self._delay = self.allocate("delay", 2 * DELAY_BYTES)
        self.is_recording = False
        self.marks: list[tuple[str, Any]] = []
        self._labels: dict[CudaKernel, str] = {}

    def load_kernel(self, kernel: KernelImage) -> CudaKernel:
        loaded = super().load_kernel(kernel)
        parts = [f"{name}={kernel.constants[name]}" for name in LABEL_CONSTANTS
                 if name in kernel.constants]  # fmt: skip
        self._labels[loaded] = " ".join(
            [kernel.spec, *parts, f"warps={kernel.num_warps} stages={kernel.num_stages}"]
        )
        return loaded

    def launch(self, handle: CudaKernel, grid: int, arguments: Mapping[str, Argument]) -> None:
        if self.is_recording:
            self.mark(f"{self._labels[handle]} grid={grid}")
        super().launch(handle, grid, arguments)

    def mark(self, label: str) -> None:
        event = self.driver.call("cuEventCreate", 0)
        self.driver.call("cuEventRecord", event, self.stream)
        self.marks.append((label, event))

    def delay(self) -> None:
        """Keeps the GPU busy while the host enqueues what comes next."""
        pairs = np.array([[0, 1]] * DELAY_COPIES, np.int32)
        view = View(self._delay, 0, "i8", (2, DELAY_BYTES))
        self.copy_rows(view, pairs, DELAY_BYTES, DELAY_BYTES, 1)

    def take_times(self) -> dict[str, list[float]]:
        """Microseconds of every launch since recording began, by label."""
        self.synchronize()
        times: dict[str, list[float]] = defaultdict(list)
        for (label, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            times[label].append(1e3 * float(self.driver.call("cuEventElapsedTime", begin, end)))
        for _, event in self.marks:
            self.driver.call("cuEventDestroy", event)
        self.marks = []
        return times


class ProfilingExecutor(TensorRTExecutor):
    """Notes the kernels' times of the steps of one size."""

    def __init__(self, engine: Engine, device: ProfilingDevice) -> None:
        super().__init__(engine, device=device)
        self.gpu = device
        self.wanted = (0, 0)
        """(packed tokens, sequences) of the steps that are noted."""
        self.steps: list[dict[str, list[float]]] = []

    def execute(self, batch: ScheduledBatch) -> None:
        self.gpu.is_recording = (batch.num_tokens, batch.num_sequences) == self.wanted
        if self.gpu.is_recording:
            self.gpu.delay()
        super().execute(batch)
        if self.gpu.is_recording:
            self.gpu.mark("end")

    def collect(self) -> StepOutput:
        output = super().collect()
        if self.gpu.is_recording:
            self.steps.append(self.gpu.take_times())
            self.gpu.is_recording = False
        return output


def table(steps: list[dict[str, list[float]]]) -> Outcome:
    """Mean microseconds of a step by kernel, the largest first; the first step is left out."""
    kept = steps[1:] or steps
    totals: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for step in kept:
        for label, times in step.items():
            totals[label] += sum(times) / len(kept)
            counts[label] = len(times)
    rows = sorted(totals, key=lambda label: -totals[label])
    kernels = [
        {"kernel": label, "launches": counts[label], "us": round(totals[label], 1),
         "us_each": round(totals[label] / counts[label], 2)}
        for label in rows
    ]  # fmt: skip
    for row in kernels:
        print(f"  {row['us']:10} us {row['launches']:4} x {row['us_each']:8}  {row['kernel']}")
    return {"steps": len(kept), "sum_us": round(sum(totals.values()), 1), "kernels": kernels}


def profile(
    runtime: Runtime, executor: ProfilingExecutor, num_sequences: int, prompt: int, output: int
) -> Outcome:
    """Runs a load and returns the table of its decode steps, or of its prefill if it has none."""
    tokens = num_sequences if output > 1 else prompt
    executor.wanted, executor.steps = (tokens, num_sequences), []
    vocab_size = runtime.engine.info.vocab_size
    for _ in range(1 if output > 1 else 3):
        requests = random_requests(
            num_sequences, Span(prompt, prompt), Span(output, output), vocab_size,
            np.random.default_rng(),
        )  # fmt: skip
        for record in LoadClient(runtime).run(requests, np.zeros(num_sequences)):
            if not record.is_complete:
                raise RuntimeError(record.error or record.finish_reason)
    if not executor.steps:
        raise RuntimeError(f"no step had {tokens} tokens of {num_sequences} sequences")
    return table(executor.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time every kernel of a step")
    parser.add_argument("engine", type=Path)
    parser.add_argument("--kv_tokens", type=int, default=65536)
    args = parser.parse_args()
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)  # says where it hangs, if it does
    steps = Steps("profile")
    with Engine(args.engine) as engine:
        executor = ProfilingExecutor(engine, ProfilingDevice())
        options = RuntimeOptions(
            kv_cache_bytes=args.kv_tokens * engine.info.kv_bytes_per_token,
            enable_block_reuse=False,
        )
        with Runtime(engine, options, executor=executor) as runtime:
            run = functools.partial(profile, runtime, executor)
            name = args.engine.name
            steps.run(f"{name}: decode, 1 sequence", lambda: run(1, 128, 12))
            steps.run(f"{name}: decode, 64 sequences", lambda: run(64, 128, 24))
            tokens = min(2048, engine.info.max_input_len, engine.info.max_seq_len - 1)
            steps.run(f"{name}: prefill, {tokens} tokens", lambda: run(1, tokens, 1))
    steps.summary()


if __name__ == "__main__":
    main()
