# SPDX-License-Identifier: Apache-2.0
"""The flags that say what runs an engine, the same for every command that runs one."""

from __future__ import annotations

import argparse
import math
from typing import TypedDict

from enginery.cli.flags import FlagParser
from enginery.emulation import emulated_executor
from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError


class ExecutorOptions(TypedDict):
    """The options of `RuntimeOptions` that these flags give."""

    executor: str | None
    sku: str | None
    free_gpu_memory_fraction: float | None


def add_executor_flags(parser: FlagParser) -> None:
    """Declares the flags in a group of their own."""
    group = parser.add_argument_group("executor")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--emulate",
        action="store_true",
        help="run an engine for a GPU on the CPU, to check it (slow; extra `emulate`)",
    )
    choice.add_argument(
        "--executor",
        metavar="MODULE:FACTORY",
        help="import string of another executor (default: that of the engine's target)",
    )
    group.add_argument(
        "--sku", metavar="NAME", help="which SKU of an engine that was built for several"
    )
    group.add_argument(
        "--free_gpu_memory_fraction",
        "--kv_cache_free_gpu_mem_fraction",
        type=_fraction,
        metavar="F",
        help="share of the GPU's free memory for the KV cache, without --kv_cache_bytes (0.9)",
    )


def add_thread_flags(group: argparse._ArgumentGroup) -> None:
    """Declares the flags about the threads of the cpu executor."""
    group.add_argument(
        "--num_threads",
        "--threads",
        type=_num_threads,
        default=0,
        metavar="N",
        help="of the cpu executor (0: all CPUs that this process may use: affinity and cgroup)",
    )
    group.add_argument(
        "--pin_threads",
        action="store_true",
        help="hold each of them on a CPU of its own, on a machine that does nothing else",
    )


def executor_options(args: argparse.Namespace, engine: Engine) -> ExecutorOptions:
    """What the flags mean for an engine.

    Raises:
        InvalidArgumentError: --emulate of an engine that needs none, or without the --sku that
            it needs; a share of a memory that is not there, or beside a size in bytes.
    """
    if args.free_gpu_memory_fraction is not None:
        if args.emulate or engine.info.target == "cpu":
            raise InvalidArgumentError(
                "--free_gpu_memory_fraction: no GPU runs the engine; give --kv_cache_bytes"
            )
        if args.kv_cache_bytes:
            raise InvalidArgumentError(
                "--free_gpu_memory_fraction, --kv_cache_bytes: give one of them"
            )
    return {
        "executor": emulated_executor(engine, args.sku) if args.emulate else args.executor,
        "sku": args.sku,
        "free_gpu_memory_fraction": args.free_gpu_memory_fraction,
    }


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1")
    return value


def _num_threads(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return value
