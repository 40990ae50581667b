# SPDX-License-Identifier: Apache-2.0
"""Flags of `serve` for those who look after a server: its watchdog and its log."""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

_TEXT, _JSON = "text", "json"
# No step of a server that is of use takes so long: docs/triton.md says how it was chosen.
_WATCHDOG_TIMEOUT_MS = 300_000
# tritonserver's own form of a line: severity, month and day, time, process, source, message.
_LOG_LINE = re.compile(r"([EWIV])\d{4} \d{2}:\d{2}:\d{2}\.\d+ +\d+ +([^\]]*)\] ?(.*)")
_LEVELS = {"E": "error", "W": "warning", "I": "info", "V": "verbose"}


class WatchdogOptions(TypedDict):
    """The options of `RuntimeOptions` that these flags give."""

    watchdog_timeout_ms: int
    watchdog_dir: str | None


def add_log_flags(group: argparse._ArgumentGroup) -> None:
    """Declares those about the log."""
    group.add_argument(
        "--log_requests",
        action="store_true",
        help="log a line per request at its end: ids, token counts, times, how it ended",
    )
    group.add_argument(
        "--log_format",
        choices=(_TEXT, _JSON),
        default=_TEXT,
        help="of the log on standard error; json: each line is an object (%(default)s)",
    )


def add_watchdog_flags(group: argparse._ArgumentGroup) -> None:
    """Declares those about the watchdog."""
    group.add_argument(
        "--watchdog_timeout_ms",
        type=int,
        default=_WATCHDOG_TIMEOUT_MS,
        metavar="N",
        help="a step that takes so long ends the server, with the state of the scheduler in a "
        "file; 0: never (%(default)s)",
    )
    group.add_argument(
        "--watchdog_dir",
        type=Path,
        metavar="DIR",
        help="where that file is written (default: the folder for temporary files)",
    )


def watchdog_options(args: argparse.Namespace) -> WatchdogOptions:
    """What the flags mean for the runtime."""
    directory = args.watchdog_dir
    return {
        "watchdog_timeout_ms": args.watchdog_timeout_ms,
        "watchdog_dir": None if directory is None else str(directory.absolute()),
    }


def request_log_format(args: argparse.Namespace) -> str:
    """`log_requests` of the model's options."""
    return str(args.log_format) if args.log_requests else ""


def print_log(line: str, form: str) -> None:
    """Prints a line of tritonserver's log on standard error.

    Args:
        line: without its end.
        form: `--log_format`.
    """
    if form == _JSON and not _is_object(line):
        line = _to_json(log_fields(line))
    print(line, file=sys.stderr, flush=True)


def print_error(message: str, form: str) -> None:
    """Prints why `serve` ends, on standard error."""
    line = f"enginery serve: error: {message}"
    if form == _JSON:
        line = _to_json({"level": "error", "source": "enginery serve", "message": message})
    print(line, file=sys.stderr, flush=True)


def log_fields(line: str) -> dict[str, str]:
    """A line of tritonserver's log, taken apart; one of another form is a message as a whole."""
    found = _LOG_LINE.fullmatch(line)
    if found is None:
        return {"message": line}
    level, source, message = found.groups()
    return {"level": _LEVELS[level], "source": source, "message": message}


def _is_object(line: str) -> bool:
    """Whether a line is an object already, as those of requests are."""
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _to_json(fields: dict[str, str]) -> str:
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"event": "log", "time": moment, **fields}, ensure_ascii=False)
