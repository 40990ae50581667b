# SPDX-License-Identifier: Apache-2.0
"""The formats of quantised checkpoints by the method that a configuration names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from enginery.builder.checkpoint.fields import Fields, read_json_object
from enginery.builder.checkpoint.imports.awq import read_awq
from enginery.builder.checkpoint.imports.block_fp8 import read_block_fp8
from enginery.builder.checkpoint.imports.compressed_tensors import read_compressed_tensors
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.gptq import read_gptq
from enginery.builder.checkpoint.imports.modelopt import read_modelopt
from enginery.builder.errors import ConfigError, Problems

READERS: dict[str, Callable[[Fields], Format]] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed_tensors,
    "fbgemm_fp8": read_block_fp8,
    "fp8": read_block_fp8,
    "gptq": read_gptq,
    "modelopt": read_modelopt,
}
MODELOPT_FILE = "hf_quant_config.json"


def read_format(directory: Path, config: Fields) -> Format | None:
    """How a checkpoint's weights are quantised already; None where they are not.

    `quantization_config` of config.json says it, or ModelOpt's own file, which is all that its
    older exports have.

    Args:
        directory: of the checkpoint.
        config: of its config.json; notes what is wrong with the entry.

    Raises:
        ConfigError: ModelOpt's file is malformed.
    """
    if config.given("quantization_config"):
        given = config.object("quantization_config")
        fields = Fields(given, config.problems, "quantization_config.")
        method = given.get("quant_method", "unnamed")
        if method in READERS:
            return READERS[method](fields)
        config.problems.add(
            "quantization_config.quant_method",
            f"{method!r} is not supported; supported are {', '.join(READERS)}",
            "give the original checkpoint and choose --qformat",
        )
        return None
    path = directory / MODELOPT_FILE
    if not path.exists():
        return None
    problems = Problems(str(path), ConfigError)
    raw = read_json_object(path, ConfigError)
    stored = read_modelopt(Fields(Fields(raw, problems).object("quantization"), problems))
    problems.raise_if_any()
    return stored
