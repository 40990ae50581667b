# SPDX-License-Identifier: Apache-2.0
"""Scales that calibration leaves beside a checkpoint's weights, under ModelOpt's names.

    model.layers.N.<module>.input_scale          activations of a linear layer: real = code * scale
    model.layers.N.<module>.weight_scale_2       FP8 values that INT4 weights are rounded to
    model.layers.N.self_attn.k_proj.k_scale      keys in the cache
    model.layers.N.self_attn.v_proj.v_scale      values in the cache

Each is one float above zero, of shape [] or [1].
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.imports.stored_weight import TensorInfo
from enginery.builder.errors import CheckpointError, Problem, Problems

SCALE = re.compile(r"\.(?:input_scale|k_proj\.k_scale|v_proj\.v_scale)$")
SCALE_SHAPES = ((), (1,))


def input_scale_name(weight: str) -> str:
    """The activation scale of the linear layer whose weight is named `weight`."""
    return f"{weight.removesuffix('.weight')}.input_scale"


def weight_scale_2_name(weight: str) -> str:
    """The scale of the FP8 values that an INT4 weight's are rounded to."""
    return f"{weight}_scale_2"


def kv_scale_name(layer: int, which: str) -> str:
    """The scale of a layer's keys ("k") or values ("v") in the KV cache."""
    return f"model.layers.{layer}.self_attn.{which}_proj.{which}_scale"


def read_kv_scale(checkpoint: Checkpoint, layer: int, which: str) -> np.float32:
    """The scale of a layer's keys ("k") or values ("v"); 1 where the checkpoint has none.

    Without calibration FP8 covers +-448, which keys and values do not leave.
    """
    name = kv_scale_name(layer, which)
    return np.float32(checkpoint.read_scalar(name) if name in checkpoint.tensors else 1)


def scale_problem(name: str, info: TensorInfo) -> Problem | None:
    """What is wrong with a scale's shape, or None."""
    if info.shape in SCALE_SHAPES:
        return None
    return Problem(
        name, f"has shape {list(info.shape)}; one scale per tensor is expected, [] or [1]"
    )


def check_scales(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Reads scales, one number or one per channel, and checks that all are finite and above zero.

    Raises:
        CheckpointError: with every one that is not.
    """
    problems = Problems(str(checkpoint.directory), CheckpointError)
    for name in names:
        values = checkpoint.read_float32(name).reshape(-1)
        # Reciprocals are stored too.
        wrong = values[~(np.isfinite(values) & (values >= np.finfo(np.float32).tiny))]
        if wrong.size and wrong[0] > 0 and np.isfinite(wrong[0]):
            problems.add(name, f"is {wrong[0]}, too small for its reciprocal to be a float32")
        elif wrong.size:
            problems.add(name, f"is {wrong[0]}; a finite number above zero is expected")
    problems.raise_if_any()
