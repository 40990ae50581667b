# SPDX-License-Identifier: Apache-2.0
"""What every target offers to the builder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.engine.program import Program
from enginery.builder.network.network import Network
from enginery.builder.options import BuildOptions


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
    """

    variant: str
    program: Program
    pack: WeightStream


class Target(Protocol):
    """Lowers networks for one kind of hardware. Has no state."""

    name: str

    def lower(self, network: Network, options: BuildOptions) -> Payload:
        """Returns the payload of one rank; reads no weights yet."""
