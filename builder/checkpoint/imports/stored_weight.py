# SPDX-License-Identifier: Apache-2.0
"""A weight that a checkpoint stores as codes: what every format's reader gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from enginery.quantization import INT4_BLOCKS, e4m3_to_float32

Interval = tuple[int, int]  # half-open
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorInfo:
    """dtype and shape of a tensor.

    Attributes:
        dtype: a name of safetensors ("F32", "BF16", "I32", ...); of a weight that is stored as
            codes "I8", "I4" or "F8_E4M3", whatever its codes are packed in.
        shape: its dimensions.
    """

    dtype: str
    shape: tuple[int, ...]


class RawTensors(Protocol):
    """The tensors of a checkpoint as they are in its files."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The dtype and shape of each, by name."""

    def read(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> npt.NDArray[Any]:
        """A read-only view: bfloat16 as uint16, FP8 as uint8, all else in its own dtype.

        Args:
            name: a name in `tensors`.
            rows: of dimension 0.
            columns: of dimension 1; ignored for tensors of another rank than 2.
        """


class Codes(NamedTuple):
    """Codes of a rectangle of a weight: real = (value of q - zero_point) * scale.

    Attributes:
        q: int8 `[N, K]`, or E4M3 bit patterns uint8 `[N, K]`.
        scale: float32 `[N, groups]`, of consecutive groups of `group_size` columns; the last may be
            shorter.
        zero_point: int8 `[N, groups]`, or None where all are 0.
        group_size: columns that share a scale.
    """

    q: npt.NDArray[Any]
    scale: FloatArray
    zero_point: npt.NDArray[np.int8] | None
    group_size: int

    def float32(self) -> FloatArray:
        """The values that the codes stand for, float32 `[N, K]`."""
        depth = self.q.shape[1]
        is_fp8 = self.q.dtype == np.uint8
        values = e4m3_to_float32(self.q) if is_fp8 else self.q.astype(np.float32)
        if self.zero_point is not None:
            values -= np.repeat(self.zero_point, self.group_size, axis=1)[:, :depth]
        values *= np.repeat(self.scale, self.group_size, axis=1)[:, :depth]
        return values


class StoredWeight(ABC):
    """A weight of a linear layer, `[N, K]`, that a checkpoint stores as codes.

    Attributes:
        dtype: "I8", "I4" or "F8_E4M3".
        shape: `(N, K)`.
        group_size: columns that share a scale; K where a row has one.
        has_zero_points: whether codes have zero points other than 0.
        is_ordered: whether each group's columns are consecutive. Where they are not (GPTQ with
            activation order) only `float32` may be called.
        tensors: names in the checkpoint of all that it is read from.
    """

    is_ordered = True

    def __init__(
        self,
        dtype: str,
        shape: tuple[int, int],
        group_size: int,
        tensors: tuple[str, ...],
        *,
        has_zero_points: bool = False,
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.group_size = group_size
        self.tensors = tensors
        self.has_zero_points = has_zero_points

    @property
    def block_size(self) -> int | None:
        """The most inputs that may share a scale where INT4 codes are kept; None: they cannot be.

        Groups and rows are whole numbers of such blocks.
        """
        if self.dtype != "I4" or not self.is_ordered:
            return None
        sizes = (self.group_size, self.shape[1])
        return next((b for b in INT4_BLOCKS if all(size % b == 0 for size in sizes)), None)

    def keeps_codes(self, dtype: str, block_size: int = 0) -> bool:
        """Whether a weight of an engine takes the codes as they are.

        INT4 needs groups of whole blocks; the others one scale per row and no zero point.

        Args:
            dtype: in which the engine stores it: "i8", "f8e4m3" or "i4".
            block_size: inputs that share a scale of "i4"; unused for the others.
        """
        if dtype == "i4":
            return self.block_size is not None and self.block_size % block_size == 0
        is_same = (self.dtype, dtype) in (("I8", "i8"), ("F8_E4M3", "f8e4m3"))
        return is_same and self.group_size >= self.shape[1] and not self.has_zero_points

    @abstractmethod
    def codes(self, rows: Interval, columns: Interval) -> Codes:
        """Reads the codes of a rectangle; safe to call from several threads.

        Args:
            rows: within `[0, N)`.
            columns: within `[0, K)`, beginning at a multiple of `group_size`; anywhere where a row
                has one group.
        """

    def float32(self, rows: Interval, columns: Interval) -> FloatArray:
        """The values of a rectangle, float32; `columns` may begin anywhere."""
        size = self.group_size
        first = columns[0] // size * size
        return self.codes(rows, (first, columns[1])).float32()[:, columns[0] - first :]
