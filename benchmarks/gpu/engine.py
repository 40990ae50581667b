# SPDX-License-Identifier: Apache-2.0
"""A TensorRT-RTX plan loaded on the GPU, bound to torch tensors and run."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.gpu.plan import LOGGER, PlanError, trt


class LoadedPlan:
    """One deserialised plan with one execution context.

    Attributes:
        validity: what the runtime says of the plan before loading it, in its own words.
        load_ms, context_ms: host time to deserialise and to create the context (where kernels
            are compiled for this GPU).
    """

    def __init__(
        self, plan: bytes, profile: int = 0, strategy: str = "EAGER", cache: bytes | None = None
    ) -> None:
        """Loads `plan` and prepares optimisation profile `profile`.

        Args:
            plan: a serialised plan.
            profile: index of the optimisation profile.
            strategy: when kernels are specialised for a shape: "EAGER", "LAZY" or "NONE".
            cache: a serialised runtime cache of an earlier context, or None.

        Raises:
            PlanError: the runtime refused the plan, with its validity and messages.
        """
        self.runtime = trt.Runtime(LOGGER)
        try:
            self.validity = str(self.runtime.get_engine_validity(plan))
        except Exception as error:  # the reason is part of what is being asked
            self.validity = f"get_engine_validity raised {error!r}"
        begin = time.perf_counter()
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        self.load_ms = (time.perf_counter() - begin) * 1e3
        if self.engine is None:
            raise PlanError(f"not deserialised; validity {self.validity}; {LOGGER.take()}")
        self.config = self.engine.create_runtime_config()
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        self.config.dynamic_shapes_kernel_specialization_strategy = getattr(strategies, strategy)
        self.cache = self.config.create_runtime_cache()
        if cache is not None:
            self.cache.deserialize(cache)
        self.config.set_runtime_cache(self.cache)
        begin = time.perf_counter()
        self.context = self.engine.create_execution_context(self.config)
        self.context_ms = (time.perf_counter() - begin) * 1e3
        if self.context is None:
            raise PlanError(f"no execution context; validity {self.validity}; {LOGGER.take()}")
        if profile:
            stream = torch.cuda.current_stream()
            self.context.set_optimization_profile_async(profile, stream.cuda_stream)
            stream.synchronize()
        self.tensors: dict[str, torch.Tensor] = {}

    def bind(self, **tensors: torch.Tensor) -> LoadedPlan:
        """Sets addresses (and input shapes) by tensor name; keeps the tensors alive."""
        self.tensors.update(tensors)
        for name, tensor in tensors.items():
            if self.engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                shape = tuple(self.engine.get_tensor_shape(name))
                if not self.context.set_input_shape(name, tuple(tensor.shape)):
                    raise PlanError(f"{name}: shape {tuple(tensor.shape)} refused, wants {shape}")
            self.context.set_tensor_address(name, tensor.data_ptr())
        return self

    def run(self, stream: Any = None) -> None:
        """Enqueues one execution on `stream` (a torch stream; the current one if None)."""
        stream = stream or torch.cuda.current_stream()
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise PlanError(f"execute_async_v3 returned False: {LOGGER.take()}")
