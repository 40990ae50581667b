# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights, in one safetensors file or in shards with an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.fields import read_json_object
from enginery.builder.checkpoint.imports.format import Format
from enginery.builder.checkpoint.imports.modelopt import ModelOpt
from enginery.builder.checkpoint.imports.stored_weight import TensorInfo
from enginery.builder.checkpoint.imports.values import VALUE_DTYPES, as_float32
from enginery.builder.checkpoint.safetensors import (
    MAX_HEADER_BYTES,
    SafetensorsFile,
)
from enginery.builder.errors import CheckpointError, Problem, Problems

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class RawTensors:
    """The tensors of a checkpoint's files; see `imports.stored_weight.RawTensors`."""

    def __init__(self, file_of: Mapping[str, SafetensorsFile]) -> None:
        self._file_of = file_of
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(file.tensors[name].dtype, file.tensors[name].shape)
            for name, file in file_of.items()
        }

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """A read-only view of part of a tensor as it is stored."""
        array = self._file_of[name].read(name)
        if array.ndim == 2:
            return array[rows, columns]
        return array[rows] if array.ndim else array


class Checkpoint:
    """The weights of a checkpoint directory, mapped and read by slices.

    A weight that is stored as codes is one tensor under the name that it had unquantised, whatever
    the files hold in its place.

    Attributes:
        directory: where it is.
        files: the weight files, in the order in which they are hashed.
        tensors: dtype and shape by tensor name.
        stored: the weights that are codes, by name.
        surplus: tensors that say nothing where the model has none of their name.

    Args:
        directory: where it is.
        stored_as: how quantised weights are stored, `ModelConfig.stored_as`.

    Raises:
        CheckpointError: from the constructor, when the files are missing, malformed, or not what
            the index or the format says.
    """

    def __init__(self, directory: Path, stored_as: Format | None = None) -> None:
        self.directory = directory
        self._files: dict[str, SafetensorsFile] = {}
        self._file_of: dict[str, SafetensorsFile] = {}
        try:
            self._open(_weight_map(directory))
            self._raw = RawTensors(self._file_of)
            self._read_format(stored_as or ModelOpt())
        except CheckpointError:
            self.close()
            raise
        self.files = [file.path for file in self._files.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmaps all files."""
        for file in self._files.values():
            file.close()

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """Returns a read-only view of part of a tensor as it is stored.

        bfloat16 is uint16.

        Args:
            name: a name in `tensors`, not in `stored`.
            rows: of dimension 0.
            columns: of dimension 1; only for tensors of rank 2.
        """
        return self._raw.read(self._renamed.get(name, name), rows, columns)

    def read_float32(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[np.float32]:
        """As `read`, converted exactly to float32; of codes the values that they stand for.

        Raises:
            CheckpointError: scales of codes are not what their format says.
        """
        if name in self.stored:
            num_rows, depth = self.stored[name].shape
            return self.stored[name].float32(rows.indices(num_rows)[:2], columns.indices(depth)[:2])
        assert self.tensors[name].dtype in VALUE_DTYPES
        return as_float32(self.read(name, rows, columns), self.tensors[name].dtype)

    def read_scalar(self, name: str) -> np.float32:
        """The value of a tensor with one element, of any rank."""
        values = self.read_float32(name).reshape(-1)
        assert values.size == 1
        return np.float32(values[0])

    def pre_quant_scale(self, weight: str) -> npt.NDArray[np.float32] | None:
        """What the input of a weight's module is multiplied by first, `[K]`; None: nothing."""
        name = pre_quant_scale_name(weight)
        return self.read_float32(name).reshape(-1) if name in self.tensors else None

    def tensor_bytes(self) -> dict[str, int]:
        """Size of each tensor as it is stored."""
        return {
            name: file.tensors[name].end - file.tensors[name].begin
            for name, file in self._file_of.items()
        }

    def _open(self, weight_map: dict[str, str] | None) -> None:
        problems = Problems(str(self.directory), CheckpointError)
        names = [SINGLE_FILE] if weight_map is None else sorted(set(weight_map.values()))
        for name in names:
            try:
                self._files[name] = SafetensorsFile(self.directory / name)
            except CheckpointError as error:
                problems.found += [
                    Problem(f"{name}: {problem.field}", problem.message, problem.fix)
                    for problem in error.problems
                ]
        problems.raise_if_any()
        for file_name, file in self._files.items():
            for tensor in file.tensors:
                if weight_map is not None and weight_map.get(tensor) != file_name:
                    where = weight_map.get(tensor, "nowhere")
                    problems.add(tensor, f"is in {file_name}; the index says {where}")
                self._file_of[tensor] = file
        for tensor in weight_map or {}:
            if tensor not in self._file_of:
                problems.add(tensor, f"is in {INDEX_FILE} but in none of the files")
        problems.raise_if_any()

    def _read_format(self, stored_as: Format) -> None:
        problems = Problems(f"{self.directory} ({stored_as.name})", CheckpointError)
        self.stored = stored_as.weights(self._raw, problems)
        self._renamed = stored_as.renamed(self._raw)
        problems.raise_if_any()
        hidden = {name for weight in self.stored.values() for name in weight.tensors}
        hidden |= set(self._renamed.values())
        self.surplus = stored_as.surplus(self._raw)
        tensors = {name: info for name, info in self._raw.tensors.items() if name not in hidden}
        for name, raw_name in self._renamed.items():
            tensors[name] = self._raw.tensors[raw_name]
        for name, weight in self.stored.items():
            tensors[name] = TensorInfo(weight.dtype, weight.shape)
        self.tensors: Mapping[str, TensorInfo] = tensors


def pre_quant_scale_name(weight: str) -> str:
    """The tensor that smooths the input of the module whose weight is named `weight`."""
    return f"{weight.removesuffix('.weight')}.pre_quant_scale"


def has_weights(directory: Path) -> bool:
    """Whether a directory holds weights of any kind, or anything in their place."""
    names = (SINGLE_FILE, INDEX_FILE, "*.safetensors", *PICKLE_PATTERNS)
    return any(True for name in names for _ in directory.glob(name))


def unsupported_dtypes(tensors: Mapping[str, TensorInfo]) -> list[Problem]:
    """Names the tensors whose dtype cannot be imported."""
    accepted = ", ".join(VALUE_DTYPES)
    return [
        Problem(name, f"has dtype {info.dtype}; {accepted} can be imported")
        for name, info in tensors.items()
        if info.dtype not in VALUE_DTYPES
    ]


def _weight_map(directory: Path) -> dict[str, str] | None:
    """The index's map from tensor to file name; None where one file holds all.

    Raises:
        CheckpointError: there are no safetensors files, or the index is malformed.
    """
    if (directory / SINGLE_FILE).exists():
        return None
    path = directory / INDEX_FILE
    if not path.exists():
        raise _no_weights(directory)
    index = read_json_object(path, CheckpointError, max_bytes=MAX_HEADER_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(str(path), [Problem("weight_map", "is not an object with entries")])
    problems = Problems(str(path), CheckpointError)
    for tensor, name in weight_map.items():
        # A name with a folder in it could lead out of the checkpoint.
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            problems.add(f"weight_map.{tensor}", f"{name!r} is not the name of a file")
    problems.raise_if_any()
    return weight_map


def _no_weights(directory: Path) -> CheckpointError:
    if not directory.is_dir():
        return CheckpointError(str(directory), [Problem("directory", "does not exist")])
    pickles = sorted({path.name for pattern in PICKLE_PATTERNS for path in directory.glob(pattern)})
    if pickles:
        return CheckpointError(
            str(directory),
            [
                Problem(
                    "weights",
                    f"only pickled weights are there ({', '.join(pickles[:4])}); unpickling runs "
                    "code from the file, so they are not read",
                    "save the checkpoint again with save_pretrained(safe_serialization=True)",
                )
            ],
        )
    return CheckpointError(
        str(directory), [Problem("weights", f"neither {SINGLE_FILE} nor {INDEX_FILE} is there")]
    )
