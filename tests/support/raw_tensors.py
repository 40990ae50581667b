# SPDX-License-Identifier: Apache-2.0
"""Tensors of a checkpoint that were never in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.stored_weight import StoredWeight, TensorInfo
from enginery.builder.errors import CheckpointError, Problems

Stored = tuple[npt.NDArray[Any], str]
"""An array and the name of its dtype in safetensors."""


class MemoryTensors:
    """Arrays by name, read as a checkpoint's are.

    Attributes:
        num_read: elements that were handed out so far, by tensor.
    """

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored = stored
        self.num_read: dict[str, int] = dict.fromkeys(stored, 0)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Dtype and shape by name."""
        return {
            name: TensorInfo(dtype, array.shape) for name, (array, dtype) in self._stored.items()
        }

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """A read-only view of part of a tensor."""
        array = self._stored[name][0].view()
        array.flags.writeable = False
        if array.ndim == 2:
            array = array[rows, columns]
        elif array.ndim:
            array = array[rows]
        self.num_read[name] += np.size(array)
        return array


def read_weights(
    stored_as: Format, tensors: Mapping[str, Stored]
) -> tuple[dict[str, StoredWeight], list[str]]:
    """The weights that a format finds in some tensors, and what it notes."""
    problems = Problems("checkpoint", CheckpointError)
    read = stored_as.weights(MemoryTensors(tensors), problems)
    return read, [str(problem) for problem in problems.found]


def assert_is_named(
    read: Callable[[dict[str, Stored]], tuple[dict[str, StoredWeight], list[str]]],
    tensors: Mapping[str, Stored],
    name: str,
    array: npt.NDArray[Any] | None,
    dtype: str,
    message: str,
) -> None:
    """Changes one tensor, or (None) takes it out: that is all that is found wrong, by its name."""
    changed = dict(tensors)
    if array is None:
        del changed[name]
    else:
        changed[name] = (array, dtype)
    found, problems = read(changed)
    assert not found
    (problem,) = problems
    assert problem.startswith(f"{name}: {message}")
