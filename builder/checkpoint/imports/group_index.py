# SPDX-License-Identifier: Apache-2.0
"""The group of each input of a weight, where a format lets groups be of any inputs."""

from __future__ import annotations

import numpy as np

from enginery.builder.checkpoint.imports.tensor_checks import TensorChecks


def is_consecutive(
    checks: TensorChecks, name: str, depth: int, size: int, *, unset: int | None
) -> bool | None:
    """Whether the inputs' groups are those of consecutive inputs; None after a problem.

    Reads the tensor: what it holds decides whether the codes can be kept.

    Args:
        checks: of the checkpoint.
        name: of the tensor, int32 `[depth]`.
        depth: the number of inputs.
        size: inputs of a group.
        unset: what some writers fill the tensor with where groups are consecutive.
    """
    if not checks.expect(name, ("I32", "I64"), (depth,)):
        return None
    index = checks.raw.read(name)
    if np.array_equal(index, np.arange(depth) // size):
        return True
    if unset is not None and bool((index == unset).all()):
        return True
    num_groups = -(-depth // size)
    if index.min() < 0 or index.max() >= num_groups:
        checks.problems.add(
            name, f"names groups from {index.min()} to {index.max()}; there are {num_groups}"
        )
        return None
    return False
