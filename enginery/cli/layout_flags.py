# SPDX-License-Identifier: Apache-2.0
"""Flags of `serve` that choose the models of the repository."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from enginery.runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from enginery.triton_backend.options import ModelOptions
    from enginery.triton_backend.trtllm.options import TrtllmOptions

_ENGINERY = "enginery"
_TENSORRT_LLM = "tensorrt_llm"
_OWN_FLAGS = ("decoupled_mode", "exclude_input_in_output", "accumulate_tokens")


def add_layout_flags(group: argparse._ArgumentGroup) -> None:
    """Declares them."""
    group.add_argument(
        "--layout",
        choices=(_ENGINERY, _TENSORRT_LLM),
        default=_ENGINERY,
        help="enginery: one model, text or token ids in, text out; tensorrt_llm: preprocessing, "
        "tensorrt_llm, postprocessing, their ensemble and tensorrt_llm_bls, for clients of "
        "TensorRT-LLM's backend (%(default)s)",
    )
    group.add_argument(
        "--model_name",
        help="name clients ask for (enginery; in the layout tensorrt_llm: ensemble)",
    )
    group.add_argument(
        "--decoupled_mode",
        choices=("true", "false"),
        help="of the layout tensorrt_llm; false: one response a request and no streaming, for "
        "clients that call infer (true)",
    )
    group.add_argument(
        "--exclude_input_in_output",
        action="store_true",
        help="of the layout tensorrt_llm: responses leave out the prompt unless a request says "
        "otherwise",
    )
    group.add_argument(
        "--accumulate_tokens",
        action="store_true",
        help="of the layout tensorrt_llm: responses of tensorrt_llm_bls have the whole text so far",
    )


def layout_options(args: argparse.Namespace, options: ModelOptions) -> ModelOptions | TrtllmOptions:
    """The options of the layout that the flags choose.

    Raises:
        InvalidArgumentError: flags of one layout are given with the other.
    """
    from enginery.triton_backend.trtllm.options import BlsOptions, TrtllmOptions

    if args.layout == _TENSORRT_LLM:
        return TrtllmOptions(
            options,
            is_decoupled=args.decoupled_mode != "false",
            excludes_input=args.exclude_input_in_output,
            bls=BlsOptions(accumulates_tokens=args.accumulate_tokens),
        )
    given = [f"--{name}" for name in _OWN_FLAGS if getattr(args, name)]
    if given:
        raise InvalidArgumentError(
            f"{', '.join(given)}: belongs to --layout tensorrt_llm; add that, or leave it out"
        )
    return options
