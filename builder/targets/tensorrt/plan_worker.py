# SPDX-License-Identifier: Apache-2.0
"""The process in which TensorRT builds plans: `python -m ...plan_worker PACKAGE`.

Started by `plan_process`. Reads jobs from its input, one line of JSON each, and answers each with
a line; TensorRT may end the process at any time. What TensorRT prints goes to the error output.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Refusal(Exception):
    """TensorRT refused; the message holds its own words."""


class Worker:
    """Builds plans with one TensorRT package.

    Args:
        package: "tensorrt_rtx" or "tensorrt".
    """

    def __init__(self, package: str) -> None:
        self.trt: Any = importlib.import_module(package)
        self.is_rtx = package == "tensorrt_rtx"
        self.logger = _recording_logger(self.trt)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answers a job of `PlanProcess`: {"seconds"} with the plan written, or {"error"}."""
        try:
            if "probe" in question:
                self.trt.Builder(self.logger)
                return {"capability": local_capability()}
            start = time.perf_counter()
            model = Path(question["model"]).read_bytes()
            plan = self.build(model, question["capability"], question["profiles"])
            Path(question["plan"]).write_bytes(plan)
            return {"seconds": round(time.perf_counter() - start, 3)}
        except Refusal as error:
            return {"error": str(error)}

    def build(self, model: bytes, capability: list[int], profiles: list[list[int]]) -> bytes:
        """Builds a strongly typed plan.

        Args:
            model: ONNX with one dynamic dimension, the first of some inputs.
            capability: of the GPU to build for.
            profiles: (min, opt, max) of the dynamic dimension, one per profile.

        Raises:
            Refusal: the parser or the builder refuses.
        """
        trt = self.trt
        builder = trt.Builder(self.logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse(model):
            errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise Refusal("does not parse the model: " + self._words(errors))
        config = builder.create_builder_config()
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        for rows in profiles:
            profile = builder.create_optimization_profile()
            for item in inputs:
                shape = tuple(item.shape)
                if -1 in shape:
                    profile.set_shape(item.name, *((row, *shape[1:]) for row in rows))
            config.add_optimization_profile(profile)
        if self.is_rtx:
            name = "SM{}{}".format(*capability)
            config.num_compute_capabilities = 1
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), 0):
                raise Refusal(f"does not take compute capability {name}: " + self._words())
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refusal("does not build the segment: " + self._words())
        return bytes(plan)

    def _words(self, errors: Sequence[str] = ()) -> str:
        """The parser's errors, or else what TensorRT said since it was last asked, in one line."""
        said, self.logger.messages = list(errors) or self.logger.messages, []
        return " ".join("; ".join(dict.fromkeys(said)).split()) or "it gave no reason"


def _recording_logger(trt: Any) -> Any:
    class RecordingLogger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, to quote them."""

        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.messages.append(message.strip())

    return RecordingLogger()


def local_capability() -> list[int]:
    """Compute capability of this machine's first GPU.

    Raises:
        Refusal: there is none.
    """
    from cuda.bindings import driver

    kinds = driver.CUdevice_attribute
    result, *_ = driver.cuInit(0)
    if int(result):
        raise Refusal(f"there is no CUDA driver: {result}")
    result, device = driver.cuDeviceGet(0)
    values = []
    for part in ("MAJOR", "MINOR"):
        kind = getattr(kinds, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}")
        result, value = driver.cuDeviceGetAttribute(kind, device)
        if int(result):
            raise Refusal(f"there is no GPU: {result}")
        values.append(int(value))
    return values


def main() -> None:
    """Answers jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
