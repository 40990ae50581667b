# SPDX-License-Identifier: Apache-2.0
"""Lowers a network to the segments and steps of the `tensorrt` target."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.builder.cache import Cache
from enginery.builder.engine.program import Program
from enginery.builder.memory_plan import Workspace
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions
from enginery.builder.sku import Sku
from enginery.builder.targets.artifacts import Artifacts
from enginery.builder.targets.attributes import program_attributes
from enginery.builder.targets.target import Payload
from enginery.builder.targets.tensorrt.checks import check_kernels_take
from enginery.builder.targets.tensorrt.cut import cut
from enginery.builder.targets.tensorrt.steps import lower_steps
from enginery.builder.targets.tensorrt.weights import Weights
from enginery.builder.targets.tensorrt.workspace import workspace

VARIANT = "segments"


class TensorRTTarget:
    """The `tensorrt` target; see `enginery.builder.targets.target.Target`."""

    name = "tensorrt"

    def lower(self, network: Network, options: BuildOptions) -> Payload:
        """Returns steps that run segments, and row-major weights; reads no weights yet.

        Raises:
            OptionError: the model's sizes or the options are not what the kernels take.
        """
        check_kernels_take(network, options)
        parts = cut(network, options)
        weights = Weights(parts, network.config, options)
        buffers, steps = lower_steps(parts, weights.tensors)
        program = Program(
            program_attributes(network, options), tuple(weights.tensors.values()), buffers, steps
        )
        return Payload(VARIANT, program, weights.pack, parts.segments)

    def workspace(self, payload: Payload, options: BuildOptions) -> Workspace:
        """Returns scratch of segments, partial results of attention and staging."""
        return workspace(payload.program, payload.segments, options)

    def artifacts(
        self, payloads: Sequence[Payload], skus: Sequence[Sku], options: BuildOptions, cache: Cache
    ) -> Artifacts:
        """Returns ONNX of the segments, kernels and TensorRT plans of every SKU."""
        # What compiles needs an extra; lowering and planning do without it.
        from enginery.builder.targets.tensorrt.sections import Artifacts as SegmentArtifacts

        return SegmentArtifacts([(p.program, p.segments) for p in payloads], skus, options, cache)
