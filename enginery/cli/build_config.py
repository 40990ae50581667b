# SPDX-License-Identifier: Apache-2.0
"""Options of a build, given on the command line or in a file under it."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from enginery.builder.errors import OptionError, Problems
from enginery.builder.options import BuildRequest

BEHAVIOUR = (
    "dry_run", "json", "log_level", "accuracy_check", "reference_model", "max_perplexity_increase",
    "min_top1_agreement", "calib_dataset", "calib_size", "calib_max_seq_length", "calib_batch_size",
    "calib_seed",
)  # fmt: skip


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given.

    Raises:
        OptionError: model or output is given nowhere.
    """
    names = [*BEHAVIOUR, *(field.name for field in dataclasses.fields(BuildRequest))]
    options = {name: getattr(args, name) for name in names}
    options = {name: value for name, value in options.items() if value is not None}
    problems = Problems("options", OptionError)
    for name in ("model", "output"):
        # A dry run writes nowhere.
        if name not in options and not (name == "output" and options.get("dry_run")):
            problems.add(name, "is missing", f"give --{name} DIR")
    problems.raise_if_any()
    if "exclude_modules" in options:
        options["exclude_modules"] = tuple(options["exclude_modules"])
    return options
