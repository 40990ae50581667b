# SPDX-License-Identifier: Apache-2.0
"""An argument parser that takes a flag's snake_case and kebab-case spelling alike."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class FlagParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that reads `--max-batch-size` as `--max_batch_size`.

    Flags are declared and shown in one spelling; the other is accepted. Abbreviations are not
    accepted: a typing error must not select another flag.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses `args` (default: the process's) after giving each flag its declared spelling."""
        given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._in_declared_spelling(given), namespace)

    def _in_declared_spelling(self, args: list[str]) -> list[str]:
        declared = self._option_string_actions
        by_kebab_case = {name.replace("_", "-"): name for name in declared if name.startswith("--")}
        spelled: list[str] = []
        for position, arg in enumerate(args):
            if arg == "--":
                return spelled + args[position:]
            name, equals, value = arg.partition("=")
            if name.startswith("--") and name not in declared:
                name = by_kebab_case.get(name.replace("_", "-"), name)
            spelled.append(name + equals + value)
        return spelled
