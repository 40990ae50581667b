# SPDX-License-Identifier: Apache-2.0
"""Options of a build from a TOML or JSON file, under those of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any

from enginery.builder.errors import OptionError, Problem, Problems
from enginery.builder.options import BuildRequest

# Other names of an option, as on the command line.
ALIASES = {"model_dir": "model", "checkpoint_dir": "model", "output_dir": "output"}
PATHS = ("model", "output", "cache_dir", "accuracy_check", "reference_model", "calib_dataset")
BEHAVIOUR = {
    "dry_run": bool,
    "json": bool,
    "log_level": str,
    "accuracy_check": str,
    "reference_model": str,
    "max_perplexity_increase": float,
    "min_top1_agreement": float,
    "calib_dataset": str,
    "calib_size": int,
    "calib_max_seq_length": int,
    "calib_batch_size": int,
    "calib_seed": int,
}


def option_types() -> dict[str, type]:
    """Every option that a file may give, with the type of its value."""
    types: dict[str, type] = dict(BEHAVIOUR)
    for field in dataclasses.fields(BuildRequest):
        kind = str(field.type).partition("[")[0].partition(" ")[0]
        types[field.name] = {"int": int, "bool": bool, "tuple": list}.get(kind, str)
    return types


def merge_config(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options given on the command line or, failing that, in `--config`.

    Raises:
        OptionError: the file cannot be read, has an unknown entry or one of the wrong type, or
            model or output is given nowhere.
    """
    types = option_types()
    options = {} if args.config is None else _read_options(args.config, types)
    for name in types:
        value = getattr(args, name, None)
        if value is not None:
            options[name] = value
    problems = Problems("options", OptionError)
    for name in ("model", "output"):
        # A dry run writes nowhere.
        if name not in options and not (name == "output" and options.get("dry_run")):
            problems.add(name, "is missing", f"give --{name} DIR")
    problems.raise_if_any()
    for name in PATHS:
        if name in options:
            options[name] = Path(options[name])
    if "exclude_modules" in options:
        options["exclude_modules"] = tuple(options["exclude_modules"])
    return options


def _read_options(path: Path, types: dict[str, type]) -> dict[str, Any]:
    given = _parse(path)
    problems = Problems(str(path), OptionError)
    options: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        name = ALIASES.get(name, name)
        if name not in types:
            problems.add(key, "is not an option", f"options are {', '.join(sorted(types))}")
        elif type(value) is not types[name]:
            problems.add(key, f"{value!r} is not of type {types[name].__name__}")
        elif isinstance(value, list) and not all(isinstance(item, str) for item in value):
            problems.add(key, f"{value!r} is not a list of strings")
        elif name in options:
            problems.add(key, f"gives the option {name} twice")
        else:
            options[name] = value
    problems.raise_if_any()
    # Paths in a file are relative to the file, so that it works from anywhere.
    for name in PATHS:
        if name in options:
            options[name] = path.parent / options[name]
    return options


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        problem = Problem("config", f"cannot be read: {error.strerror}")
        raise OptionError(str(path), [problem]) from None
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise OptionError(str(path), [Problem("config", f"is not valid {kind}: {error}")]) from None
    if not isinstance(value, dict):
        raise OptionError(str(path), [Problem("config", "does not hold an object")])
    return value
