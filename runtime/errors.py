# SPDX-License-Identifier: Apache-2.0
"""What the runtime raises: one exception per kind of status of the C interface."""

from __future__ import annotations

from collections.abc import Sequence


class EngineryError(Exception):
    """Base of everything that the runtime raises.

    Attributes:
        status: name of the status as in `enginery.h` without the prefix, e.g. "QUEUE_FULL".
    """

    status: str = "INTERNAL"

    def __init__(self, message: str, status: str | None = None) -> None:
        super().__init__(message)
        if status is not None:
            self.status = status


class InvalidArgumentError(EngineryError, ValueError):
    """A field of a request, an option or a call is out of range."""

    status = "INVALID_ARGUMENT"

    @classmethod
    def from_problems(cls, owner: str, problems: Sequence[str]) -> InvalidArgumentError:
        """One error that lists every problem found in `owner`."""
        if len(problems) == 1:
            return cls(f"{owner}: {problems[0]}")
        lines = "".join(f"\n  - {problem}" for problem in problems)
        return cls(f"{owner}: {len(problems)} problems{lines}")


class TextTooLongError(InvalidArgumentError):
    """A text has more tokens than the engine takes, for certain."""


class NotFoundError(EngineryError, LookupError):
    """A file, a section or a request that is not there."""

    status = "NOT_FOUND"


class EngineFileError(EngineryError):
    """An engine file breaks docs/engine-format.md; `status` names the rule."""

    status = "INVALID_HEADER"


class EngineMismatchError(EngineryError):
    """A sound engine that this machine or executor cannot run; `status` says why."""

    status = "WRONG_TARGET"


class QueueFullError(EngineryError):
    """`max_queue_size` requests are waiting already; try again later."""

    status = "QUEUE_FULL"


class ShutDownError(EngineryError):
    """The runtime takes no requests any more, or has no more events."""

    status = "SHUT_DOWN"


class OutOfMemoryError(EngineryError, MemoryError):
    """The KV cache or the workspace could not be allocated."""

    status = "OUT_OF_MEMORY"


class NotSupportedError(EngineryError):
    """The executor in use does not do that."""

    status = "NOT_SUPPORTED"


class LibraryNotFoundError(EngineryError, ImportError):
    """libenginery.so is not where an installation puts it, or is not the one expected."""

    status = "NOT_FOUND"


_ENGINE_FILE_STATUSES = (
    "BAD_MAGIC",
    "UNSUPPORTED_VERSION",
    "TRUNCATED",
    "INVALID_HEADER",
    "CHECKSUM_MISMATCH",
    "INVALID_SECTION",
    "MISSING_SECTION",
    "INVALID_PROGRAM",
    "INVALID_TENSOR",
    "INVALID_TOKEN_BYTES",
)

_BY_STATUS: dict[str, type[EngineryError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    **dict.fromkeys(_ENGINE_FILE_STATUSES, EngineFileError),
    **dict.fromkeys(("WRONG_TARGET", "UNSUPPORTED_OP", "RANK_MISMATCH"), EngineMismatchError),
    "QUEUE_FULL": QueueFullError,
    "SHUT_DOWN": ShutDownError,
    "OUT_OF_MEMORY": OutOfMemoryError,
    "NOT_SUPPORTED": NotSupportedError,
}


def error_of(status_name: str, message: str) -> EngineryError:
    """The exception for a status of the C interface; `EngineryError` itself for the rest."""
    return _BY_STATUS.get(status_name, EngineryError)(message or status_name, status_name)
