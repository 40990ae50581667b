# SPDX-License-Identifier: Apache-2.0
"""Say what a model takes on given hardware before anything is downloaded or built.

config.json is enough. For each SKU: weights (of each rank on GPUs, of all ranks on a CPU), the
workspace of a step, the KV cache, and how many sequences it holds; or why it does not fit and the
largest limit that does. Numbers are those that build-engine plans with.

Keys and values are cached for the KV heads alone: a token takes 2 x layers x num_kv_heads x
head_dim numbers. With grouped-query attention that is a fraction of hidden_size, which only tells
the width of the residual stream.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.errors import LimitError
from enginery.builder.memory_plan import KV_ITEM_BYTES, describe_plan, format_bytes
from enginery.builder.options import BuildRequest
from enginery.builder.sku import sku_names
from enginery.cli.flags import FlagParser
from enginery.cli.plan_flags import add_plan_arguments, scheme_lines

DOES_NOT_FIT = 1
EXAMPLES = """\
examples:
  enginery estimate ./Llama-3.1-8B --sku h200,l40s,cpu --qformat fp8 --max_seq_len 8192
      the same model in FP8 on three kinds of hardware

  enginery estimate ./Llama-3.1-70B/config.json --sku h100 --tp_size 4 --max_batch_size 128 --json
      one rank of four, for a script

exit status: 0 where it fits on every SKU, 1 where it does not fit on some, 2 after an error
"""


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery estimate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{EXAMPLES}\nschemes (--qformat):\n{scheme_lines()}"
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="directory with a config.json, or that file"
    )
    parser.add_argument(
        "--sku",
        default="cpu",
        metavar="NAME[,NAME...]",
        help=f"hardware, each looked at alone: {', '.join(sku_names())} (default: cpu)",
    )
    add_plan_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints the estimate of each SKU; see `add_arguments`."""
    model = args.model.parent if args.model.name == "config.json" else args.model
    given = {key: value for key, value in vars(args).items() if value is not None}
    given = {key: given[key] for key in given.keys() & _OPTIONS}
    given["model"] = model
    entries: dict[str, Any] = {}
    fits = True
    for name in args.sku.split(","):
        try:
            planned = plan_build(BuildRequest(**given | {"sku": name}), reads_weights=False)
        except LimitError as error:
            fits = False
            entries[name] = {"fits": False, "reason": str(error)}
            text = f"{name}: does not fit\n  {error}"
        else:
            entries[name] = {"fits": True} | _to_json(planned)
            text = _describe(planned)
        if not args.json:
            print(text, flush=True)
    if args.json:
        print(json.dumps({"model": str(model), "skus": entries}, indent=2))
    return 0 if fits else DOES_NOT_FIT


_OPTIONS = {field.name for field in dataclasses.fields(BuildRequest)} - {"model", "sku"}


def _to_json(planned: PlannedBuild) -> dict[str, Any]:
    return {"options": vars(planned.options), "memory_plan": planned.plan.to_json()}


def _describe(planned: PlannedBuild) -> str:
    config, options = planned.config, planned.options
    num_kv_heads = config.num_kv_heads
    # The plan counts what one GPU holds, and all ranks of a CPU together.
    if planned.skus[0].gpu is not None:
        num_kv_heads //= options.tp_size
    item_bytes = KV_ITEM_BYTES[options.kv_cache_dtype]
    line = (
        f"  A token takes {format_bytes(planned.plan.kv_bytes_per_token)} of it: 2 x "
        f"{config.num_layers} layers x {num_kv_heads} KV heads x head_dim {config.head_dim} x "
        f"{item_bytes} bytes."
    )
    return "\n".join(
        [f"{planned.skus[0].name}:", describe_plan(planned.plan, options, planned.skus[0]), line]
    )
