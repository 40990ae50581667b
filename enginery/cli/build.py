# SPDX-License-Identifier: Apache-2.0
"""Build an engine directory from a Hugging Face checkpoint.

The checkpoint's configuration, tensors and tokenizer are checked first, then the memory plan is
printed. For GPUs kernels and plans are compiled next, with no GPU, or taken from the cache. Then
the weights are quantised, packed and written. Nothing is written on an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from enginery.accuracy_report import AccuracyError
from enginery.builder.build import PlannedBuild, build, plan_build
from enginery.builder.dry_run import DryRun, dry_run
from enginery.builder.memory import PeakMemory
from enginery.builder.memory_plan import describe_plan, format_bytes
from enginery.builder.network.text import to_text
from enginery.builder.options import BuildRequest
from enginery.builder.sku import Sku, load_sku, sku_names
from enginery.cli.accuracy_flags import Examination, add_accuracy_arguments
from enginery.cli.build_config import given_options
from enginery.cli.build_progress import BuildProgress
from enginery.cli.calibrated_build import CalibratedModel, calibrated_model
from enginery.cli.calibration_flags import add_calibration_arguments
from enginery.cli.flags import FlagParser
from enginery.cli.legacy_flags import add_legacy_flags, legacy_notes
from enginery.cli.plan_flags import add_plan_arguments, scheme_lines
from enginery.cli.text_table import Row, table

ACCURACY_MISSED = 1
NO_WEIGHTS = "the checkpoint has no weights: its tensors and its tokenizer were not checked"
EXAMPLES = """\
examples:
  build-engine --model ./Qwen2.5-0.5B-Instruct --output ./engine --qformat int8_dynamic
      INT8 weights and activations for any x86-64 processor

  build-engine --model ./TinyLlama --max_batch_size 16 --max_seq_len 1024 --dry_run
      check everything and print the memory plan, writing nothing

  build-engine --model ./Llama-3.1-8B --output ./engine --sku h200,l40s,rtx4090 --qformat int8_wo
      one engine for three GPUs, with one copy of the weights

  build-engine --model ./Llama-3.1-70B --sku h200 --tp_size 2 --dry_run
      compile kernels and plans and say what the engine would take; config.json suffices

  build-engine --model ./Llama-3.1-8B --output ./engine --sku h100 --qformat fp8 \
      --calib_dataset news.jsonl
      calibrate first: the same as `enginery quantize`, and an engine of what it wrote

  build-engine --model ./TinyLlama --output ./engine --qformat w4a8_dynamic \
      --accuracy_check heldout.txt --max_perplexity_increase 3%
      an engine only if it is as good as that

  build-engine --config build.toml --max_batch_size 8
      options from a file, with one of them replaced

schemes (--qformat):
"""
EXAMPLES += scheme_lines()


def _sku_lines() -> str:
    """The SKUs, what they are for, and whether engines for them ran on them."""
    return "\n".join(f"  {line}" for line in table(map(_sku_row, map(load_sku, sku_names()))))


def _sku_row(sku: Sku) -> Row:
    state = "verified" if sku.is_verified else "built only"
    if sku.gpu is None:
        return sku.name, "x86-64", "any", state, ""
    major, minor = sku.gpu.compute_capability
    memory = format_bytes(sku.memory_bytes or 0)
    return sku.name, f"SM {major}.{minor}", memory, state, ", ".join(sku.gpu.providers)


def add_arguments(parser: FlagParser) -> None:
    """Declares the options of `build-engine`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"{EXAMPLES}\n\nhardware (--sku):\n{_sku_lines()}"
    # None everywhere: an option that was not given is told from one that repeats its default, so
    # that the configuration file can supply it.
    paths = parser.add_argument_group("what to build")
    parser.add_config_flags(paths)
    paths.add_argument(
        "--model",
        "--model_dir",
        "--checkpoint_dir",
        dest="model",
        type=Path,
        metavar="DIR",
        help="directory of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json)",
    )
    paths.add_argument(
        "--output",
        "--output_dir",
        dest="output",
        type=Path,
        metavar="DIR",
        help="engine directory to write",
    )
    paths.add_argument(
        "--sku",
        metavar="NAME[,NAME...]",
        help="hardware to build for, see below; several GPUs share one engine (default: cpu)",
    )
    add_plan_arguments(parser)
    add_calibration_arguments(parser, prefix="calib_")
    add_accuracy_arguments(parser)
    behaviour = parser.add_argument_group("behaviour")
    for name, text in (
        ("dry_run", "do all but the weights: check, compile, print the memory plan"),
        ("no_cache", "compile every kernel and plan, and keep none"),
        ("overwrite", "replace the engine that is in the output directory"),
        ("skip_tokenizer", "build without a tokenizer: token ids in, token ids out"),
        ("json", "print the plan and the summary as one JSON object"),
    ):
        behaviour.add_argument(f"--{name}", action="store_true", default=None, help=text)
    behaviour.add_argument(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where compiled kernels and plans are kept (default: $ENGINERY_CACHE_DIR, or enginery "
        "in the user's cache folder)",
    )
    behaviour.add_argument(
        "--log_level",
        choices=["error", "warning", "info", "verbose"],
        help="error and warning print no plan and no progress, verbose also the network "
        "(default: info)",
    )
    add_legacy_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Builds the engine; see `add_arguments`."""
    options = given_options(args)
    notes = legacy_notes(args)
    with calibrated_model(options) as model:
        return _build(model, notes + model.notes)


def _build(model: CalibratedModel, notes: list[str]) -> int:
    """Builds from a checkpoint that has all that the build takes."""
    options = model.options
    log_level = options.pop("log_level", "info")
    is_quiet = log_level in ("error", "warning")
    as_json = bool(options.pop("json", False))
    is_dry_run = bool(options.pop("dry_run", False))
    examination = Examination.from_options(options, is_dry_run=is_dry_run)
    # With --json standard output holds the object and nothing else.
    text = sys.stderr if as_json else sys.stdout

    result: dict[str, Any] = {"notes": notes}
    failure: AccuracyError | None = None
    with PeakMemory() as memory:
        planned = plan_build(BuildRequest(**options), reads_weights=model.reads_weights)
        notes += planned.notes
        if not planned.has_weights and model.reads_weights:
            notes.append(NO_WEIGHTS)
        if not is_quiet:
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
            print(_describe(planned), file=text, flush=True)
        if log_level == "verbose":
            print(to_text(planned.network), file=sys.stderr)
        result |= {"options": vars(planned.options), "memory_plan": planned.plan.to_json()}
        if len(planned.skus) > 1:
            pairs = zip(planned.skus, planned.plans, strict=True)
            result["memory_plans"] = {sku.name: plan.to_json() for sku, plan in pairs}
        with BuildProgress(sys.stderr, is_silent=is_quiet) as progress:
            if is_dry_run:
                trial = dry_run(planned, progress)
            else:
                measure = None if examination is None else examination.of(planned, progress)
                try:
                    summary = build(planned, progress, examine=measure)
                except AccuracyError as error:
                    failure = error
    if failure is not None:
        return _tell_failure(failure, result, as_json=as_json)
    if is_dry_run:
        result["dry_run"] = trial.to_json()
        if not is_quiet and trial.num_kernels:
            print(_describe_trial(trial), file=text)
    else:
        result["summary"] = {
            "output": str(summary.output),
            "seconds": round(summary.seconds, 3),
            "peak_anonymous_bytes": memory.peak_bytes,
            "largest_tensor_bytes": list(summary.largest_tensor_bytes),
            "file_bytes": list(summary.file_bytes),
        }
        if not is_quiet:
            size = format_bytes(sum(summary.file_bytes))
            peak = format_bytes(memory.peak_bytes)
            print(
                f"Wrote {summary.output} ({size}) in {summary.seconds:.1f} s, "
                f"peak anonymous memory {peak}",
                file=text,
            )
        if examination is not None and examination.report is not None:
            result["accuracy"] = examination.report.to_json()
            if not is_quiet:
                print(examination.report.describe(), file=text)
    if as_json:
        print(json.dumps(result, indent=2))
    return 0


def _tell_failure(error: AccuracyError, result: dict[str, Any], *, as_json: bool) -> int:
    """Prints the report of an engine that lost more than it may."""
    if as_json:
        result |= {"accuracy": error.report.to_json(), "error": str(error)}
        print(json.dumps(result, indent=2))
    else:
        print(error.report.describe())
    print(f"the engine was not written: {error}", file=sys.stderr)
    return ACCURACY_MISSED


def _describe_trial(trial: DryRun) -> str:
    parts = f"{trial.num_kernels} kernels"
    if trial.num_plans:
        parts += f" and {trial.num_plans} plans"
    seconds = trial.weight_seconds
    packing = f"about {seconds:.0f} s" if seconds >= 1 else "less than a second"
    return (
        f"Made {parts} in {trial.seconds:.1f} s, {trial.num_cached} of them from the cache: "
        f"{format_bytes(trial.compiled_bytes)} in the engine. Packing "
        f"{format_bytes(trial.weight_bytes)} of weights would take {packing}."
    )


def _describe(planned: PlannedBuild) -> str:
    config, options = planned.config, planned.options
    sizes = (
        f"{config.num_layers} layers, hidden {config.hidden_size}, {config.num_heads} heads, "
        f"{config.num_kv_heads} KV heads of {config.head_dim}, vocabulary {config.vocab_size}"
    )
    title = (
        f"{config.family.architecture} ({sizes})\n"
        f"  for SKU {options.sku}, dtype {options.dtype}, qformat {options.qformat}, "
        f"tp_size {options.tp_size}"
    )
    plans = zip(planned.skus, planned.plans, strict=True)
    return "\n".join([title, *(describe_plan(plan, options, sku) for sku, plan in plans)])
