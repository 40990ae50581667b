# SPDX-License-Identifier: Apache-2.0
"""The flag of `serve` that chooses Triton server's backend."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginery.triton_backend.native_backend import NativeOptions
    from enginery.triton_backend.options import ModelOptions
    from enginery.triton_backend.trtllm.options import TrtllmOptions


def add_backend_flags(group: argparse._ArgumentGroup) -> None:
    """Declares it."""
    group.add_argument(
        "--backend",
        choices=("auto", "native", "python"),
        default="auto",
        help="python: every engine and input, text_input and bad_words too; native: no Python in "
        "the process that has the engine, engines of target cpu; its model takes prompts as "
        "input_ids alone, in the layout tensorrt_llm the ensemble takes text all the same; auto: "
        "python (%(default)s)",
    )


def backend_options(
    args: argparse.Namespace, options: ModelOptions | TrtllmOptions
) -> ModelOptions | NativeOptions | TrtllmOptions:
    """The options of the backend that the flag chooses.

    Args:
        args: what was parsed.
        options: of the layout.
    """
    from enginery.triton_backend.native_backend import NativeOptions
    from enginery.triton_backend.options import ModelOptions

    if args.backend != "native":
        return options
    if isinstance(options, ModelOptions):
        return NativeOptions(options)
    return dataclasses.replace(options, is_native=True)
