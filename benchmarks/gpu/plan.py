# SPDX-License-Identifier: Apache-2.0
"""Builds TensorRT-RTX plans from ONNX bytes; needs no GPU."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Tokens per step (min, opt, max) of the two optimisation profiles.
PROFILES = ((1, 8, 64), (64, 256, 2048))


def import_tensorrt() -> ModuleType:
    """TensorRT-RTX's bindings, under whichever name the installed packages give them.

    Raises:
        ImportError: neither name is installed.
    """
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError:  # the bindings' wheel without its front package
        return importlib.import_module("tensorrt_rtx_bindings")


trt: Any = import_tensorrt()


class RecordingLogger(trt.ILogger):  # type: ignore[misc]
    """Keeps every warning and error, so that a refusal can be quoted word for word."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.messages.append(f"{severity.name}: {message}")

    def take(self) -> list[str]:
        """The messages since the last call, each once."""
        taken, self.messages = list(dict.fromkeys(self.messages)), []
        return taken


LOGGER = RecordingLogger()  # TensorRT allows one logger per process


class PlanError(RuntimeError):
    """TensorRT refused; the message carries its own words."""


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """What changes from plan to plan.

    Attributes:
        compute_capability: a name such as "SM89" or "CURRENT"; None leaves it unset, which
            TensorRT-RTX documents as "every supported GPU".
        flags: names of builder flags.
    """

    compute_capability: str | None = None
    flags: Sequence[str] = ()


def build_plan(model: bytes, hidden: int, options: BuildOptions = BuildOptions()) -> bytes:
    """Parses ONNX bytes into a strongly typed network and builds a plan.

    Raises:
        PlanError: the parser or the builder refused.
    """
    builder = trt.Builder(LOGGER)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, LOGGER)
    if not parser.parse(model):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise PlanError(f"parser: {errors} {LOGGER.take()}")
    config = builder.create_builder_config()
    for low, typical, high in PROFILES:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (low, hidden), (typical, hidden), (high, hidden))
        config.add_optimization_profile(profile)
    for name in options.flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.compute_capability:
        config.num_compute_capabilities = 1
        capability = getattr(trt.ComputeCapability, options.compute_capability)
        if not config.set_compute_capability(capability, 0):
            raise PlanError(f"set_compute_capability refused: {LOGGER.take()}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanError(f"build_serialized_network returned None: {LOGGER.take()}")
    return bytes(plan)


def gemm_operands(plan: bytes) -> list[str]:
    """Operand types of every GEMM named in the plan, such as "fp8_e4m3 x fp8_e4m3 -> half"."""
    # Not with the module: what only loads plans runs without the builder.
    from enginery.builder.targets.tensorrt.gemm_operands import read_gemms

    return sorted({str(gemm) for gemms in read_gemms(plan).values() for gemm in gemms})
