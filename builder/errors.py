# SPDX-License-Identifier: Apache-2.0
"""What a build refuses, and why.

Every check collects its problems before it raises, so that one run names all that must be mended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with what the user gave.

    Attributes:
        field: the option, configuration entry, tensor or file it is about.
        message: what was found and what is accepted, as one sentence without a full stop.
        fix: what to do about it; empty where the message says it.
    """

    field: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" + (f" ({self.fix})" if self.fix else "")


class BuildError(Exception):
    """Base of all errors that the user of the builder can mend.

    Attributes:
        problems: all of them, in the order in which they were found; at least one.
    """

    def __init__(self, subject: str, problems: Sequence[Problem]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            text = f"{subject}: {self.problems[0]}"
        else:
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            text = f"{subject}: {len(self.problems)} problems{lines}"
        super().__init__(text)


class OptionError(BuildError):
    """A build option, alone or beside another, is not acceptable."""


class SkuError(BuildError):
    """A SKU file is missing or malformed."""


class MatrixError(BuildError):
    """`configs/schemes.toml` is malformed, or leaves something undecided."""


class ConfigError(BuildError):
    """The checkpoint's configuration is malformed or asks for what is not supported."""


class CheckpointError(BuildError):
    """The checkpoint's weights are missing, malformed or do not fit its configuration."""


class TokenizerError(BuildError):
    """The checkpoint's tokenizer cannot be taken into an engine."""


class LimitError(BuildError):
    """The limits asked for do not fit in the memory there is."""


class OutputError(BuildError):
    """The output directory cannot be written."""


class EngineFileError(BuildError):
    """A built engine directory is not what its manifest says."""


class Problems:
    """Collects problems about one subject and raises them together."""

    def __init__(self, subject: str, error: type[BuildError]) -> None:
        self.subject = subject
        self.error = error
        self.found: list[Problem] = []

    def add(self, field: str, message: str, fix: str = "") -> None:
        """Notes one problem; see `Problem`."""
        self.found.append(Problem(field, message, fix))

    def raise_if_any(self) -> None:
        """Raises the error given at construction if a problem was noted."""
        if self.found:
            raise self.error(self.subject, self.found)
