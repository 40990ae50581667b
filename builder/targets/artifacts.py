# SPDX-License-Identifier: Apache-2.0
"""What a target adds to an engine beside program and weights: code that was compiled for it."""

from __future__ import annotations

from typing import Any, Protocol

from enginery.builder.engine.container import Section
from enginery.builder.progress import Progress


class Artifacts(Protocol):
    """Compiled parts of an engine, of all its ranks and SKUs."""

    def make(self, progress: Progress) -> None:
        """Compiles what no cache holds; before that the rest may not be called.

        Raises:
            BuildError: something cannot be compiled; nothing has been written by then.
        """

    def sections(self, rank: int) -> list[Section]:
        """The sections of a rank's file that hold them."""

    def manifest(self) -> dict[str, Any]:
        """What `manifest.json` says of them."""


class NoArtifacts:
    """Of a target whose code is in the library."""

    def make(self, progress: Progress) -> None:
        """Does nothing."""

    def sections(self, rank: int) -> list[Section]:
        """None."""
        return []

    def manifest(self) -> dict[str, Any]:
        """Nothing."""
        return {}
