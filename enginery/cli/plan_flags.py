# SPDX-License-Identifier: Apache-2.0
"""The flags that a memory plan depends on: what `build-engine` and `enginery estimate` share."""

from __future__ import annotations

import argparse

from enginery.builder.memory_plan import KV_ITEM_BYTES
from enginery.quantization import SCHEMES


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags; what is not given is None."""
    precision = parser.add_argument_group("precision")
    precision.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "auto"],
        help="operands that are not quantised; auto is the checkpoint's (default: bfloat16)",
    )
    precision.add_argument(
        "--qformat",
        choices=["auto", *SCHEMES],
        help="quantisation scheme, see below (default: auto, the one that keeps the codes of a "
        "checkpoint that is quantised already, and none for any other)",
    )
    precision.add_argument(
        "--exclude_modules",
        nargs="+",
        metavar="PATTERN",
        help="linear modules that stay in the dtype: whole names or their ends, as in a shell, "
        "e.g. lm_head down_proj 'layers.0.*'",
    )
    precision.add_argument(
        "--kv_cache_dtype",
        choices=["auto", *KV_ITEM_BYTES],
        help="keys and values in the cache (default: auto, what the checkpoint was calibrated for, "
        "and else the dtype)",
    )
    limits = parser.add_argument_group("limits")
    for name, text in (
        ("max_batch_size", "sequences in one step (default: of the SKU)"),
        ("max_num_tokens", "packed tokens in one step (default: of the SKU)"),
        ("max_input_len", "tokens of a prompt (default: max_seq_len)"),
        ("tokens_per_block", "tokens in a KV block (default: of the SKU)"),
        ("kv_cache_bytes", "bytes to plan for the KV cache (default: a share of the memory)"),
        ("tp_size", "tensor-parallel ranks (default: 1)"),
    ):
        limits.add_argument(f"--{name}", type=int, metavar="N", help=text)
    limits.add_argument(
        "--max_seq_len",
        "--max_decoder_seq_len",
        dest="max_seq_len",
        type=int,
        metavar="N",
        help="tokens of a sequence, prompt and output (default: of the model)",
    )


def scheme_lines() -> str:
    """The schemes and what they are, for the end of a help text."""
    return "\n".join(f"  {scheme.name:<14}{scheme.summary}" for scheme in SCHEMES.values())
