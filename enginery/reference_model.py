# SPDX-License-Identifier: Apache-2.0
"""What an engine's accuracy is measured against: the unquantised model, built for cpu."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from enginery.builder.build import PlannedBuild, plan_build
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.config import ModelConfig, read_config
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES
from enginery.builder.engine.directory import MANIFEST_FILE
from enginery.builder.errors import OptionError, Problems
from enginery.builder.models.decoder import build_decoder
from enginery.builder.options import BuildRequest

TOKENIZER_FILE = "tokenizer.json"
# In what a model and its reference must agree for the layers of one to be those of the other.
SHAPE = (
    "vocab_size",
    "num_layers",
    "hidden_size",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
)


def reference_request(
    planned: PlannedBuild, reference_model: Path | None, output: Path | None = None
) -> BuildRequest:
    """The options of the reference: nothing quantised.

    Args:
        planned: the engine that is measured.
        reference_model: the checkpoint of its weights; None is that of the engine.
        output: where it is to be written; None to plan alone.
    """
    dtype = "float32" if planned.options.dtype == "float16" else planned.options.dtype
    model = reference_model or planned.request.model
    # Text becomes tokens once, and one of the two has what it takes.
    is_without = reference_model is not None and not (model / TOKENIZER_FILE).exists()
    return BuildRequest(
        model=model,
        output=output,
        dtype=dtype,
        qformat="none",
        kv_cache_dtype=dtype,
        max_seq_len=planned.options.max_seq_len,
        max_batch_size=1,
        skip_tokenizer=is_without,
    )


def check_reference(planned: PlannedBuild, reference_model: Path | None) -> None:
    """Checks, before anything is built, that an engine has a reference.

    Args:
        planned: the engine that is to be measured.
        reference_model: see `reference_request`.

    Raises:
        OptionError: the weights are quantised already, or belong to another model or vocabulary.
        BuildError: the reference cannot be built.
    """
    model = planned.request.model
    problems = Problems("options", OptionError)
    if reference_model is None:
        if _is_quantised(model, planned.config):
            problems.add(
                "reference_model",
                f"is not given, and the weights of {model} are quantised already: they cannot be "
                "what their own loss is measured against",
                "give --reference_model DIR, the original checkpoint",
            )
    else:
        _check_fits(planned, reference_model, problems)
    problems.raise_if_any()
    plan_build(reference_request(planned, reference_model))


def reference_identity(reference: Path) -> dict[str, str]:
    """Which checkpoint a reference engine was built from.

    Args:
        reference: the engine's directory.

    Returns:
        `model`, the name of the checkpoint's directory, and `model_sha256`, the SHA-256 of the
        SHA-256 digests, in hexadecimal, of its config.json and its weight files in order.
    """
    manifest: dict[str, Any] = json.loads((reference / MANIFEST_FILE).read_text(encoding="utf-8"))
    checkpoint = manifest["checkpoint"]
    digests = [checkpoint["config_sha256"], *(file["sha256"] for file in checkpoint["weights"])]
    return {
        "model": checkpoint["name"],
        "model_sha256": hashlib.sha256("".join(digests).encode()).hexdigest(),
    }


def _check_fits(planned: PlannedBuild, reference_model: Path, problems: Problems) -> None:
    config, model = read_config(reference_model), planned.request.model
    ours, theirs = (c.family.architecture for c in (planned.config, config))
    if ours != theirs:
        problems.add("reference_model", f"{reference_model} is a {theirs}, the model a {ours}")
    for name in SHAPE:
        expected, found = getattr(planned.config, name), getattr(config, name)
        if found != expected:
            problems.add(
                "reference_model",
                f"{name} of {reference_model} is {found}, that of the model {expected}",
                "give the checkpoint that the model was quantised from",
            )
    files = [directory / TOKENIZER_FILE for directory in (model, reference_model)]
    if all(file.exists() for file in files) and len({file.read_bytes() for file in files}) > 1:
        problems.add(
            "reference_model",
            f"{files[1]} differs from {files[0]}: the same text would be other tokens",
            "give the checkpoint that the model was quantised from, with its tokenizer",
        )
    if not problems.found and _is_quantised(reference_model, config):
        problems.add(
            "reference_model",
            f"the weights of {reference_model} are quantised already",
            "give the original checkpoint",
        )


def _is_quantised(model: Path, config: ModelConfig) -> bool:
    """Whether a linear layer's weight is stored as codes."""
    linears = [node.weight(1).name for node in build_decoder(config).nodes if node.op == "linear"]
    with Checkpoint(model, config.stored_as) as checkpoint:
        stored = [checkpoint.tensors[name] for name in linears if name in checkpoint.tensors]
    return any(info.dtype not in VALUE_DTYPES for info in stored)
