# SPDX-License-Identifier: Apache-2.0
"""Reads scales and other floats of a quantised checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.imports.stored_weight import FloatArray, RawTensors
from enginery.builder.errors import CheckpointError, Problem
from enginery.quantization import bfloat16_to_float32

VALUE_DTYPES = ("F32", "F16", "BF16")
"""dtypes of tensors that are values by themselves."""


def as_float32(stored: npt.NDArray[Any], dtype: str) -> FloatArray:
    """Elements of a dtype in `VALUE_DTYPES`, as they are stored, converted exactly to float32."""
    return bfloat16_to_float32(stored) if dtype == "BF16" else stored.astype(np.float32, copy=False)


def read_values(
    raw: RawTensors, name: str, rows: slice = slice(None), columns: slice = slice(None)
) -> FloatArray:
    """Part of a tensor of floats, converted exactly to float32.

    Raises:
        CheckpointError: it is of another dtype, or a value is not finite.
    """
    dtype = raw.tensors[name].dtype
    if dtype not in VALUE_DTYPES:
        accepted = ", ".join(VALUE_DTYPES)
        raise CheckpointError(
            "checkpoint", [Problem(name, f"has dtype {dtype}; {accepted} can be read")]
        )
    values = as_float32(raw.read(name, rows, columns), dtype)
    if not np.isfinite(values).all():
        raise CheckpointError(
            "checkpoint", [Problem(name, "holds a NaN or an infinity", "the file is damaged")]
        )
    return values
