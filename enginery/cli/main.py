# SPDX-License-Identifier: Apache-2.0
"""The command `enginery`: finds the subcommand, imports it alone and runs it.

A subcommand is a module with `add_arguments(parser: FlagParser) -> None` and
`run(args: argparse.Namespace) -> int`. Its docstring is its description in `--help`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import enginery
from enginery.cli.flags import FlagParser

USAGE_ERROR = 2
INTERRUPTED = 130


class Command(NamedTuple):
    """A subcommand: its name, which is also its module's in this package, and its help line."""

    name: str
    help: str


COMMANDS = (
    Command("build", "build an engine directory from a checkpoint (also: build-engine)"),
    Command("quantize", "calibrate a checkpoint and write it quantised, for us and other engines"),
    Command("estimate", "say what a model takes on given hardware; config.json is enough"),
    Command("inspect", "show an engine's header, program, weights and memory plan"),
    Command("verify", "check the sizes and hashes of an engine's files"),
    Command("refit", "put the weights of a fine-tune into an engine; nothing is compiled"),
    Command("serve", "serve an engine with Triton Inference Server"),
    Command("bench", "measure an engine's throughput and latencies"),
)


def command_named(name: str) -> Command:
    """Returns the subcommand called `name`; raises `KeyError` where there is none."""
    return {command.name: command for command in COMMANDS}[name]


def run_command(command: Command, argv: Sequence[str] | None, prog: str) -> int:
    """Runs one subcommand and returns the process's exit status.

    Args:
        command: which.
        argv: its arguments; None takes the process's.
        prog: the name under which it was called, for its messages.

    Returns:
        What the subcommand returns; 2 after an error that the user can mend, told on standard
        error without a traceback; 130 after an interrupt.
    """
    module = importlib.import_module(f"enginery.cli.{command.name}")
    parser = FlagParser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    try:
        return int(module.run(parser.parse_args(argv)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (`| head`). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        print(f"{prog}: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _is_for_the_user(error: Exception) -> bool:
    """Whether `error` explains itself: our typed exceptions and the system's refusals.

    The packages below this one share no module, so their exceptions have no common base class:
    what tells them from a bug of ours is where they are defined.
    """
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] == "enginery"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `enginery` with `argv` (default: the process's) and returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    width = max(len(command.name) for command in COMMANDS)
    parser = FlagParser(
        prog="enginery",
        usage="enginery COMMAND [OPTIONS]",
        description="Builds LLM inference engines ahead of time and serves them.",
        epilog="commands:\n"
        + "\n".join(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS)
        + "\n\n`enginery COMMAND --help` tells a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"enginery {enginery.__version__}")
    if given and not given[0].startswith("-"):
        names = [command.name for command in COMMANDS]
        if given[0] not in names:
            parser.error(f"unknown command {given[0]!r}; the commands are {', '.join(names)}")
        return run_command(command_named(given[0]), given[1:], prog=f"enginery {given[0]}")
    parser.parse_args(given)
    parser.print_help()
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
