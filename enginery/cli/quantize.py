# SPDX-License-Identifier: Apache-2.0
"""Calibrate a checkpoint and write it quantised, in a format that other engines read too.

Activations are measured on text, weights become codes, and scales are left beside them, in
ModelOpt's unified Hugging Face format: config.json, safetensors, hf_quant_config.json, with the
tokenizer's files. calibration.json says what it was made from. `build-engine --model` takes it, and
does both in one go where it gets --calib_dataset itself.

On a CPU it computes in float32 and takes 4 bytes of memory per weight, on a GPU in the checkpoint's
dtype. Needs pip install 'enginery[calib]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from enginery.builder.memory_plan import format_bytes
from enginery.cli.calibration_flags import CalibrationProgress, add_calibration_arguments
from enginery.cli.flags import FlagParser
from enginery.quantization import INT4_BLOCK, INT4_BLOCKS
from enginery.quantization.calibration_formats import CALIBRATION_FORMATS, KV_CACHE_FORMATS
from enginery.quantize import DEVICES, QuantizeRequest, plan_quantization, quantize

EXAMPLES = """\
examples:
  enginery quantize --model ./Llama-3.1-8B --output ./Llama-3.1-8B-fp8 --qformat fp8 \\
      --kv_cache_dtype fp8 --calib_dataset news.jsonl
      FP8 weights, activations and KV cache, for GPUs from compute capability 8.9

  enginery quantize --model ./TinyLlama --output ./TinyLlama-awq --qformat int4_awq \\
      --calib_dataset ./texts --calib_size 64
      INT4 weights, from 64 windows of a folder of texts

  enginery quantize --model ./TinyLlama --output ./TinyLlama-int8 --qformat int8_wo
      INT8 weights need no text

formats (--qformat):
"""


def _format_lines() -> str:
    lines = []
    for form in CALIBRATION_FORMATS.values():
        needs = "needs text" if form.reads_data else "needs no text"
        lines.append(f"  {form.name:<10}{form.summary}; {needs}")
    return "\n".join(lines) + "\n\n--kv_cache_dtype fp8 or int8 needs text beside every format.\n"


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `enginery quantize`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES + _format_lines()
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR",
        help="directory of a Hugging Face checkpoint that is not quantised",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="checkpoint directory to write"
    )
    parser.add_argument(
        "--qformat", required=True, choices=list(CALIBRATION_FORMATS), help="see below"
    )
    parser.add_argument(
        "--kv_cache_dtype",
        choices=list(KV_CACHE_FORMATS),
        default="auto",
        help="add scales for keys and values in that dtype (default: auto, none)",
    )
    parser.add_argument(
        "--exclude_modules",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="linear modules that stay as they are: names or their ends, with * as in a shell; "
        "lm_head always does",
    )
    parser.add_argument(
        "--awq_block_size",
        type=int,
        choices=INT4_BLOCKS,
        help=f"inputs that share a scale of INT4 weights (default: {INT4_BLOCK}); fewer cost less "
        "accuracy and more bytes, and only engines for cpu take them",
    )
    add_calibration_arguments(parser, prefix="")
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto is a GPU where there is one"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the calibrated checkpoint that is in --output",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument(
        "--log_level",
        choices=["error", "warning", "info", "verbose"],
        default="info",
        help="error and warning print no notes and no progress, verbose also what ModelOpt and "
        "transformers say (default: info)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the checkpoint; see `add_arguments`."""
    names = (
        "model", "output", "qformat", "kv_cache_dtype", "calib_dataset", "calib_size",
        "calib_max_seq_length", "batch_size", "seed", "awq_block_size", "device", "overwrite",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    planned = plan_quantization(
        QuantizeRequest(**options, exclude_modules=tuple(args.exclude_modules))
    )
    is_quiet = args.log_level in ("error", "warning")
    if not is_quiet:
        for note in planned.notes:
            print(f"note: {note}", file=sys.stderr)
    with CalibrationProgress(sys.stderr, is_silent=is_quiet) as progress:
        summary = quantize(planned, progress, is_verbose=args.log_level == "verbose")
    record = summary.record
    if args.json:
        result = {
            "output": str(summary.output),
            "weight_bytes": summary.weight_bytes,
            "notes": list(planned.notes),
            "calibration": record,
        }
        print(json.dumps(result, indent=2))
    elif not is_quiet:
        size = format_bytes(summary.weight_bytes)
        measured = f", {record['num_tokens']} tokens of calibration" if record["num_tokens"] else ""
        print(f"Wrote {summary.output} ({size}) in {record['seconds']:.1f} s{measured}")
    return 0
