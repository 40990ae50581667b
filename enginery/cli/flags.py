# SPDX-License-Identifier: Apache-2.0
"""An argument parser that takes both spellings of a flag, and flags from a configuration file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from enginery.cli.config_file import read_config, write_config
from enginery.runtime.errors import InvalidArgumentError


class FlagParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that reads `--max-batch-size` as `--max_batch_size`.

    Flags are declared and shown in one spelling; the other is accepted. Abbreviations are not
    accepted: a typing error must not select another flag.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self._config_actions: list[argparse.Action] = []

    def add_config_flags(self, group: argparse._ArgumentGroup) -> None:
        """Declares --config and --dump_config; before the flags that a file may give.

        Every flag declared later that the help shows is a key of the file by itself. A switch
        among them gets a second spelling that turns it off, and one that is repeatable replaces
        what the file gives: the command line comes first.

        Args:
            group: where the help has them.
        """
        config = group.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="TOML or JSON file with the same option names; the command line comes first",
        )
        dump = group.add_argument(
            "--dump_config",
            action="store_true",
            help="print the options in effect as such a file, and do nothing else",
        )
        self._config_actions = [config, dump]
        self.register("action", "store_true", _Switch)
        self.register("action", "append", _Append)

    def config_groups(self) -> Iterator[tuple[str, list[argparse.Action]]]:
        """The options that a file may give, under the titles that the help has."""
        hidden = [*self._config_actions, self._option_string_actions.get("--help")]
        for group in self._action_groups:
            actions = [
                action
                for action in group._group_actions
                if action not in hidden and action.help != argparse.SUPPRESS
            ]
            if actions:
                yield group.title or "", actions

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parses `args` (default: the process's) after giving each flag its declared spelling.

        Raises:
            InvalidArgumentError: what the configuration file has is not accepted.
        """
        given = self._in_declared_spelling(list(sys.argv[1:] if args is None else args))
        if not self._config_actions:
            return super().parse_known_args(given, namespace)
        path = self._config_path(given)
        values = {} if path is None else read_config(path, self._config_keys())
        declared = {name: self.get_default(name) for name in values}
        self._check_alternatives(values, declared)
        self.set_defaults(**values)
        try:
            parsed, rest = super().parse_known_args(given, namespace)
        finally:
            self.set_defaults(**declared)
        self._prefer_command_line(parsed, values, declared)
        if parsed.dump_config:
            print(write_config(self.config_groups(), parsed), end="")
            self.exit()
        return parsed, rest

    def _config_path(self, args: Sequence[str]) -> Path | None:
        finder = argparse.ArgumentParser(prog=self.prog, add_help=False, allow_abbrev=False)
        finder.add_argument("--config", type=Path)
        path: Path | None = finder.parse_known_args(args)[0].config
        return path

    def _config_keys(self) -> dict[str, argparse.Action]:
        """Every name of every option that a file may give."""
        keys: dict[str, argparse.Action] = {}
        for _, actions in self.config_groups():
            for action in actions:
                spellings = action.on if isinstance(action, _Switch) else action.option_strings
                names = {action.dest, *(name.lstrip("-") for name in spellings)}
                keys |= dict.fromkeys(sorted(names), action)
        return keys

    def _check_alternatives(self, values: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
        """Refuses a file that gives two options of which the command line takes one."""
        for group in self._mutually_exclusive_groups:
            names = [action.dest for action in group._group_actions if action.dest in values]
            chosen = [name for name in names if values[name] != declared[name]]
            if len(chosen) > 1:
                raise InvalidArgumentError(
                    f"config: gives {' and '.join(chosen)}, which exclude each other; leave one out"
                )

    def _prefer_command_line(
        self, parsed: Any, values: Mapping[str, Any], declared: Mapping[str, Any]
    ) -> None:
        """Takes back what the file gives where the command line gives what excludes it."""
        for group in self._mutually_exclusive_groups:
            names = [action.dest for action in group._group_actions]
            in_file = [name for name in names if name in values]
            is_given = any(
                getattr(parsed, name) != values.get(name, self.get_default(name)) for name in names
            )
            for name in in_file if is_given else ():
                if getattr(parsed, name) == values[name]:
                    setattr(parsed, name, declared[name])

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


class _Switch(argparse.Action):
    """A flag without a value that `--no_NAME` takes back."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: bool | None = False,
        help: str | None = None,  # noqa: A002 - argparse's name
    ) -> None:
        self.on = tuple(option_strings)
        off = [name.replace("--", "--no_", 1) for name in option_strings]
        super().__init__([*self.on, *off], dest, nargs=0, default=default, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, option_string in self.on)


class _Append(argparse._AppendAction):
    """A flag that may be repeated; given once, it replaces its default."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is self.default:
            setattr(namespace, self.dest, [])
        super().__call__(parser, namespace, values, option_string)
