# SPDX-License-Identifier: Apache-2.0
"""Refuses options that we lack by name and reason, where Python would only say "unexpected"."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar

from .errors import InvalidArgumentError

Unsupported: TypeAlias = Mapping[str, tuple[tuple[Any, ...], str]]
"""Option name to the values that leave it off (None always does) and why there are no others."""

T = TypeVar("T")


def option_problems(
    known: Iterable[str], given: Mapping[str, Any], unsupported: Unsupported
) -> list[str]:
    """What is wrong with options that a class does not take.

    Args:
        known: the options it takes, for "did you mean".
        given: the options that it was given and does not take.
        unsupported: those that users bring from elsewhere.

    Returns:
        One text per option; none for an unsupported option that is off.
    """
    problems = []
    for name, value in given.items():
        if name in unsupported:
            neutral, reason = unsupported[name]
            if value is not None and not any(value is off or value == off for off in neutral):
                problems.append(f"{name} = {value!r}: not supported: {reason}")
            continue
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        problems.append(f"{name}: there is no such option{hint}")
    return problems


def explains_unknown_options(unsupported: Unsupported) -> Callable[[type[T]], type[T]]:
    """Decorates a dataclass so that it reports all options that it lacks, with reasons."""

    def decorate(cls: type[T]) -> type[T]:
        initialise = cls.__init__
        known = [item.name for item in fields(cls)]  # type: ignore[arg-type]

        @functools.wraps(initialise)
        def __init__(self: T, *args: Any, **options: Any) -> None:
            foreign = {name: options.pop(name) for name in [*options] if name not in known}
            problems = option_problems(known, foreign, unsupported)
            if problems:
                raise InvalidArgumentError.from_problems(cls.__name__, problems)
            initialise(self, *args, **options)

        setattr(cls, "__init__", __init__)  # noqa: B010 - an assignment does not type-check
        return cls

    return decorate
