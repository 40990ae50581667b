# SPDX-License-Identifier: Apache-2.0
"""What every target offers to the builder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from enginery.builder.cache import Cache
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.engine.program import Program
from enginery.builder.memory_plan import Workspace
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions
from enginery.builder.sku import Sku
from enginery.builder.targets.artifacts import Artifacts
from enginery.builder.targets.tensorrt.segment import SegmentType


class WeightStream(Protocol):
    """Makes the bytes of a program's tensors."""

    def __call__(self, checkpoint: Checkpoint) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yields (index of the tensor, next piece of its bytes), tensor by tensor in order."""


@dataclass(frozen=True)
class Payload:
    """A lowered network.

    Attributes:
        variant: what it needs of the target, as in the engine's header.
        program: tensors, buffers and steps.
        pack: makes the tensors' bytes from the checkpoint; holds a few pieces at a time.
        segments: the segment types that its steps run by name; empty on target cpu.
    """

    variant: str
    program: Program
    pack: WeightStream
    segments: tuple[SegmentType, ...] = ()


class Target(Protocol):
    """Lowers networks for one kind of hardware. Has no state."""

    name: str

    def lower(self, network: Network, options: BuildOptions) -> Payload:
        """Returns the payload of one rank; reads no weights yet.

        Raises:
            OptionError: the target cannot run this network with these options.
        """

    def workspace(self, payload: Payload, options: BuildOptions) -> Workspace:
        """Returns what a rank needs in memory beside its program's tensors and values."""

    def artifacts(
        self, payloads: Sequence[Payload], skus: Sequence[Sku], options: BuildOptions, cache: Cache
    ) -> Artifacts:
        """Returns what is compiled for the engine, not compiled yet.

        Args:
            payloads: of all ranks.
            skus: all that the engine is built for.
            options: in effect.
            cache: of what earlier builds compiled.
        """
