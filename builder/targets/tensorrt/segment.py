# SPDX-License-Identifier: Apache-2.0
"""Segments: runs of dense operations that a provider executes as one, weights given as inputs.

A `SegmentType` says nothing of the layer it came from, so every layer of equal structure shares
one, and with it one TensorRT plan or one list of kernel launches.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SegmentValue:
    """A packed matrix `[rows, columns]` that a segment takes, computes or gives.

    Attributes:
        name: unique in the segment, the same in every layer, e.g. "x", "qkv" or "gate_up_proj".
        dtype: "f32", "bf16", "f16", or a code dtype ("i8", "f8e4m3") whose real value is the code
            divided by the `inverse` it was made with.
        rows: "tokens" or "logits", the same for all values of a segment.
        columns: width.
    """

    name: str
    dtype: str
    rows: str
    columns: int

    @property
    def shape(self) -> tuple[str | int, ...]:
        """`(rows, columns)`, the first symbolic."""
        return (self.rows, self.columns)


@dataclass(frozen=True)
class SegmentTensor:
    """A stored tensor that a segment takes: another one in every layer.

    Attributes:
        name: unique in the segment: `<owner>.<role>`, e.g. "qkv_proj.scale".
        dtype: as stored; `i4` holds two codes per byte along K, low nibble first.
        shape: as stored, row-major: weight `[N, K]`, scale `[N]` or `[N, K / 128]`, inverse
            `[1]`, bias `[N]`, factor `[K]`, norm `[columns]`.
        role: "weight", "scale", "inverse", "bias", "factor" (of a linear layer) or "norm".
        owner: the linear layer or norm that it belongs to, in the checkpoint's words: "qkv_proj",
            "o_proj", "gate_up_proj", "down_proj", "lm_head", "input_layernorm", ...
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    owner: str


SegmentInput = SegmentValue | SegmentTensor


@dataclass(frozen=True)
class SegmentNode:
    """One operation of a segment; operands are names of inputs or of earlier nodes' outputs.

    Operations and their operands, in order (None is one left out):

    - `rms_norm` (x f32, norm, inverse?) -> x normalised: f32 arithmetic, then rounded to the
      output's dtype; with an inverse, codes of value * inverse
    - `quantize` (x act, inverse) -> codes of x * inverse
    - `linear` (x, weight, scale?, bias?, residual?) -> (x W^T) * scale + bias + residual, in f32
      until it is rounded to the output's dtype. `scheme` says what the weight's codes mean.
    - `silu_mul` (gate_up `[rows, 2 F]`, inverse?) -> silu(gate) * up, gate in the first F columns;
      rounded or quantised as by `rms_norm`
    - `scale_columns` (x act, factor f32, inverse?) -> x * factor, a factor for each column:
      f32 arithmetic, then rounded or quantised as by `rms_norm`
    - `add` (a f32, b f32) -> a + b

    Codes are clamped from f32 (f8e4m3 to +-448, i8 to -128..127) and then rounded to nearest even.

    Attributes:
        op: one of the above.
        inputs: operand names.
        output: what it computes.
        epsilon: of `rms_norm`, else 0.
        scheme: of `linear`, else "": "none" (weight in the dtype of x, no scale), "int8_wo" or
            "int4_wo" (x act, real weight = code * scale, per row or per block of 128 along K),
            "fp8" or "int8_sq" (x codes of the weight's dtype, scale f32 `[N]` covers both).
    """

    op: str
    inputs: tuple[str | None, ...]
    output: SegmentValue
    epsilon: float = 0.0
    scheme: str = ""


@dataclass(frozen=True)
class SegmentType:
    """A segment's structure.

    Attributes:
        name: unique in the engine: "first", "middle", "last" and "head" of a whole model.
        inputs: values, then tensors, in the order in which nodes first read them.
        outputs: values that others read, in the order in which nodes compute them. None of them
            is an input.
        nodes: in order of execution.
    """

    name: str
    inputs: tuple[SegmentInput, ...]
    outputs: tuple[SegmentValue, ...]
    nodes: tuple[SegmentNode, ...]

    @property
    def rows(self) -> str:
        """Rows of every value: "tokens" or "logits"."""
        return self.outputs[0].rows

    @property
    def values(self) -> tuple[SegmentValue, ...]:
        """The inputs that are values."""
        return tuple(item for item in self.inputs if isinstance(item, SegmentValue))

    @property
    def tensors(self) -> tuple[SegmentTensor, ...]:
        """The inputs that are stored tensors."""
        return tuple(item for item in self.inputs if isinstance(item, SegmentTensor))

    def operand(self, name: str) -> SegmentInput:
        """The input, or the output of a node, of that name."""
        for item in (*self.inputs, *(node.output for node in self.nodes)):
            if item.name == name:
                return item
        raise KeyError(f"segment {self.name} has no {name}")
