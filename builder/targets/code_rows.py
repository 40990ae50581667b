# SPDX-License-Identifier: Apache-2.0
"""Rows of a weight as codes with scales that all targets understand alike.

All functions may be called from several threads.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.scales import input_scale_name, weight_scale_name
from enginery.builder.network.weight import Weight, WeightPart
from enginery.builder.targets.weight_rows import (
    not_a_number,
    not_finite,
    read_float32,
    read_with_amax,
    round_scale,
)
from enginery.quantization import (
    Fp8Weight,
    QuantizationError,
    int4_codes,
    int4_scale,
    quantize_fp8,
    widen,
)


def input_scale(checkpoint: Checkpoint, weight: Weight) -> npt.NDArray[np.float32]:
    """The static scale of what a linear layer reads, f32 `[1]`.

    Layers that were stacked read one value: it is quantised by the largest of their scales.
    """
    names = [input_scale_name(part.tensor) for part in weight.parts]
    return np.array([max(checkpoint.read_scalar(name) for name in names)], np.float32)


def fp8_rows(checkpoint: Checkpoint, rows: Weight) -> Fp8Weight:
    """E4M3 codes, one scale per row: those of the checkpoint where it has them already.

    Raises:
        CheckpointError: a value is not finite, or a code is a NaN.
    """
    parts = [_fp8_part(checkpoint, rows, part) for part in rows.parts]
    codes, scales = zip(*parts, strict=True)
    return Fp8Weight(np.concatenate(codes), np.concatenate(scales))


def _fp8_part(checkpoint: Checkpoint, rows: Weight, part: WeightPart) -> Fp8Weight:
    if checkpoint.tensors[part.tensor].dtype == "F8_E4M3":
        assert part.columns is not None
        codes = checkpoint.read(part.tensor, slice(*part.rows), slice(*part.columns))
        scale = checkpoint.read_scalar(weight_scale_name(part.tensor))
        if ((codes & 0x7F) == 0x7F).any():
            raise not_a_number(checkpoint, part.tensor)
        return Fp8Weight(codes, np.full(len(codes), scale, np.float32))
    values, amax = read_with_amax(checkpoint, dataclasses.replace(rows, parts=(part,)))
    return quantize_fp8(values, rows.name, amax)


def int4_rows(
    checkpoint: Checkpoint, rows: Weight, act: str
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """INT4 codes int8 `[N, K]` and their scales `[N, K / 128]`, rounded to the dtype `act`.

    Raises:
        CheckpointError: a value is not finite, or a scale not in the range of `act`.
    """
    values = read_float32(checkpoint, rows)
    try:
        exact = int4_scale(values, rows.name)
    except QuantizationError as error:
        raise not_finite(checkpoint, rows) from error
    scale = round_scale(checkpoint, rows, exact, act)
    return int4_codes(values, widen(scale)), scale
