# SPDX-License-Identifier: Apache-2.0
"""Checks that tensors of quantised checkpoints are there, and have the shapes they must have."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from enginery.builder.checkpoint.imports.stored_weight import RawTensors, StoredWeight
from enginery.builder.errors import Problems

Shape = tuple[int, ...]


class TensorChecks:
    """Notes what is wrong with tensors, by name; reads no values.

    Attributes:
        raw: the checkpoint's tensors.
        problems: gets what is found.
    """

    def __init__(self, raw: RawTensors, problems: Problems) -> None:
        self.raw = raw
        self.problems = problems

    def modules(self, suffix: str) -> Iterator[str]:
        """Modules that have a tensor of this name, such as ".qweight", in the files' order."""
        for name in self.raw.tensors:
            if not name.endswith(suffix):
                continue
            module = name.removesuffix(suffix)
            if suffix != ".weight" and f"{module}.weight" in self.raw.tensors:
                self.problems.add(f"{module}.weight", f"stands beside {name}; one of them is wrong")
            else:
                yield module

    def weights(
        self, suffix: str, read: Callable[[TensorChecks, str], StoredWeight | None]
    ) -> dict[str, StoredWeight]:
        """What `read` finds of the modules that have a tensor of this name, by weight."""
        found = {}
        for module in self.modules(suffix):
            weight = read(self, module)
            if weight is not None:
                found[f"{module}.weight"] = weight
        return found

    def matrix(self, name: str, dtypes: tuple[str, ...]) -> tuple[int, int] | None:
        """The shape of a tensor that must be there and have rank 2 and no dimension of 0."""
        if not self.has_dtype(name, dtypes):
            return None
        shape = self.raw.tensors[name].shape
        if len(shape) != 2 or 0 in shape:
            self.problems.add(name, f"has shape {list(shape)}; a matrix is expected")
            return None
        return shape[0], shape[1]

    def expect(self, name: str, dtypes: tuple[str, ...], *shapes: Shape) -> bool:
        """Whether a tensor is there with one of these dtypes and one of these shapes."""
        if not self.has_dtype(name, dtypes):
            return False
        found = self.raw.tensors[name].shape
        if found in shapes:
            return True
        accepted = " or ".join(str(list(shape)) for shape in shapes)
        self.problems.add(name, f"has shape {list(found)}; its module's codes make it {accepted}")
        return False

    def has_dtype(self, name: str, dtypes: tuple[str, ...]) -> bool:
        """Whether a tensor is there with one of these dtypes."""
        if name not in self.raw.tensors:
            self.problems.add(name, "is missing, and its module's codes mean nothing without it")
            return False
        dtype = self.raw.tensors[name].dtype
        if dtype in dtypes:
            return True
        self.problems.add(name, f"has dtype {dtype}; {' or '.join(dtypes)} is expected")
        return False
