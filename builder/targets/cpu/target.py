# SPDX-License-Identifier: Apache-2.0
"""Lowers a network to the steps of the `cpu` target."""

from __future__ import annotations

from collections.abc import Sequence

from enginery.builder.cache import Cache
from enginery.builder.engine.program import Program
from enginery.builder.memory_plan import Workspace
from enginery.builder.network.network import Network
from enginery.builder.network.passes.gather_early import gather_early
from enginery.builder.network.passes.split_queries import split_queries
from enginery.builder.network.verifier import verify
from enginery.builder.options import BuildOptions
from enginery.builder.sku import Sku
from enginery.builder.targets.artifacts import Artifacts, NoArtifacts
from enginery.builder.targets.attributes import program_attributes
from enginery.builder.targets.cpu.checks import check_kernels_take
from enginery.builder.targets.cpu.constants import Constants
from enginery.builder.targets.cpu.lowering import lower_steps
from enginery.builder.targets.cpu.workspace import workspace
from enginery.builder.targets.target import Payload

# Panels of 16 channels suit every instruction set; kernels are chosen when the engine is opened.
VARIANT = "x86-64"


class CpuTarget:
    """The `cpu` target; see `enginery.builder.targets.target.Target`."""

    name = "cpu"

    def lower(self, network: Network, options: BuildOptions) -> Payload:
        """Returns steps with fused operations, and weights in panels; reads no weights yet.

        Raises:
            OptionError: the kernels do not take the share of a rank.
        """
        check_kernels_take(network, options)
        network = verify(split_queries(network), after="split_queries")
        network = verify(gather_early(network), after="gather_early")
        constants = Constants(network, options)
        buffers, steps = lower_steps(network, constants)
        program = Program(
            program_attributes(network, options), constants.tensors, tuple(buffers), tuple(steps)
        )
        return Payload(VARIANT, program, constants.pack)

    def workspace(self, payload: Payload, options: BuildOptions) -> Workspace:
        """Returns what the executor adds to the program's values."""
        return workspace(payload.program)

    def artifacts(
        self, payloads: Sequence[Payload], skus: Sequence[Sku], options: BuildOptions, cache: Cache
    ) -> Artifacts:
        """Returns none: the library holds the kernels."""
        return NoArtifacts()
