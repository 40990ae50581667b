# SPDX-License-Identifier: Apache-2.0
"""What an executor needs of a segmented engine: its program, segments, kernels and plans.

`read_image` reads all of it from an opened engine and checks it; the classes only hold it.
docs/engine-format.md says what the fields mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Scalar = int | float | bool | str | None


@dataclass(frozen=True)
class KernelImage:
    """A compiled kernel."""

    name: str
    """Unique among the SKU's kernels."""
    spec: str
    """Name of the kernel's specification, e.g. "gemm"; several kernels may share it."""
    version: int
    source_sha256: str
    """Of the source that it was compiled from, with every helper."""
    cubin: bytes = field(repr=False)
    entry: str
    """Symbol of the kernel in the cubin."""
    num_warps: int
    num_stages: int
    shared_bytes: int
    """Dynamic shared memory of a program."""
    num_params: int
    """Parameters of the entry: the passed ones, then the language's own scratch pointers."""
    registers: int
    spill_bytes: int
    signature: tuple[tuple[str, str], ...]
    """(parameter, type) in source order; "constexpr" is not passed."""
    constants: Mapping[str, Scalar]
    """Values of the constexpr parameters."""
    programmatic_launch: bool = False
    """It waits by itself for the kernel before it, so that it may be launched early."""

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """(parameter, type) of what is passed, in the order of the cubin's arguments."""
        return tuple(entry for entry in self.signature if entry[1] != "constexpr")

    def constant(self, name: str) -> int:
        """An integer constant that `read_image` has found to be there and at least 1."""
        value = self.constants[name]
        assert isinstance(value, int)
        return value


@dataclass(frozen=True)
class OperandImage:
    """An input or output of a segment, named as in its ONNX graph."""

    name: str
    is_value: bool
    """False: a tensor of the engine."""
    dtype: str
    shape: tuple[int, ...]
    """As in ONNX; of values without the rows."""
    rows: str | None
    """Of values: "tokens" or "logits"."""


@dataclass(frozen=True)
class SegmentImage:
    """A run of operations between two cuts, for every layer of equal structure."""

    name: str
    onnx: bytes = field(repr=False)
    onnx_sha256: str
    inputs: tuple[OperandImage, ...]
    outputs: tuple[OperandImage, ...]


@dataclass(frozen=True)
class ScratchImage:
    """Memory that a native segment needs while it runs."""

    name: str
    dtype: str
    rows: str
    """"tokens" or "logits"."""
    columns: int


@dataclass(frozen=True)
class VariantImage:
    """A kernel for launches of up to `max_rows` rows."""

    max_rows: int | None
    """None: any number."""
    kernel: str
    block_rows: int
    blocks: int
    """The grid is ceil(rows / block_rows) * blocks programs."""


@dataclass(frozen=True)
class LaunchImage:
    """One launch of a native segment."""

    args: Mapping[str, str]
    """Parameter to operand: a name of the segment's inputs, outputs or scratch, or "#rows"."""
    variants: tuple[VariantImage, ...]
    """By increasing `max_rows`, the last without; the first that fits is launched."""


@dataclass(frozen=True)
class NativeImage:
    """A segment as a list of kernel launches."""

    scratch: tuple[ScratchImage, ...]
    launches: tuple[LaunchImage, ...]


@dataclass(frozen=True)
class ProfileImage:
    """Rows that an optimisation profile of a plan takes, and those it was tuned for."""

    min: int
    opt: int
    max: int


@dataclass(frozen=True)
class PlanImage:
    """A segment compiled by TensorRT."""

    file: str
    data: bytes = field(repr=False)
    profiles: tuple[ProfileImage, ...]
    gemm_operands: tuple[str, ...]


@dataclass(frozen=True)
class OpImage:
    """The kernels of an operation that is no segment, by role."""

    kernels: Mapping[str, str]
    numbers: Mapping[str, int]
    """Other than kernels, e.g. "split_tokens"."""


@dataclass(frozen=True)
class TensorRTImage:
    """What compiled the plans: another version may refuse them."""

    package: str
    version: str


@dataclass(frozen=True)
class SkuImage:
    """Everything that the engine holds for one SKU."""

    name: str
    compute_capability: tuple[int, int]
    providers: tuple[str, ...]
    """What can run all segments, best first."""
    tensorrt: TensorRTImage | None
    triton_language: str
    kernels: Mapping[str, KernelImage]
    ops: Mapping[str, OpImage]
    native: Mapping[str, NativeImage]
    """By segment, where it has one."""
    plans: Mapping[str, PlanImage]
    """By segment, where it has one."""


@dataclass(frozen=True)
class TensorImage:
    """A constant of the program, row-major in a section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    section: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class ValueImage:
    """An intermediate result of the program."""

    name: str
    dtype: str
    rows: str
    columns: int


@dataclass(frozen=True)
class StepImage:
    """One operation of the program."""

    index: int
    op: str
    version: int
    inputs: tuple[TensorImage | ValueImage | None, ...]
    outputs: tuple[ValueImage, ...]
    attributes: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Names the step in errors."""
        return f"program: step {self.index} ({self.op})"


@dataclass(frozen=True)
class RankImage:
    """One rank file."""

    rank: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_layers: int
    vocab_size: int
    tokens_per_block: int
    kv_dtype: str
    """Of the KV cache, as a tensor's dtype."""
    tensors: Mapping[str, TensorImage]
    values: Mapping[str, ValueImage]
    steps: tuple[StepImage, ...]
    segments: Mapping[str, SegmentImage]
    sku: SkuImage
