# SPDX-License-Identifier: Apache-2.0
"""Segments as lists of kernel launches: the `native` provider.

A launch computes a node, or two where a kernel does both: the SiLU product is fused into the GEMM
before it, the quantise of a norm, of that product or of scaled columns into the kernel that
computes it, and bias, scale and residual into the GEMM. GEMMs come in variants for few and for
many rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from enginery.builder.targets.tensorrt.kernels import POINTERS, KernelSet
from enginery.builder.targets.tensorrt.segment import (
    SegmentNode,
    SegmentTensor,
    SegmentType,
    SegmentValue,
)
from enginery.plugins.kernels import tiles

ROWS = "#rows"  # the operand that stands for the number of rows
# scheme -> kind of operands by which tiles are chosen, and the kernel's WEIGHT
OPERANDS = {"none": "act", "fp8": "fp8", "int8_sq": "int8"}
Constants = Mapping[str, int | str]
WEIGHTS = {"int8_wo": "int8_wo", "int4_wo": "int4_wo"}


@dataclass(frozen=True)
class Variant:
    """A kernel for up to `max_rows` rows (None: any number), and its grid.

    The grid is `ceil(rows / block_rows) * blocks` programs.
    """

    max_rows: int | None
    kernel: str
    block_rows: int
    blocks: int


@dataclass(frozen=True)
class Launch:
    """One launch: operands by parameter, and the kernels that it may be."""

    args: Mapping[str, str]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class NativeSegment:
    """A segment as launches in order, over scratch values of its own."""

    scratch: tuple[SegmentValue, ...]
    launches: tuple[Launch, ...]

    def to_json(self) -> dict[str, Any]:
        """As in sku.json."""
        return {
            "scratch": [
                {"name": v.name, "dtype": v.dtype, "rows": v.rows, "columns": v.columns}
                for v in self.scratch
            ],
            "launches": [
                {"args": dict(launch.args), "variants": list(map(vars, launch.variants))}
                for launch in self.launches
            ],
        }


def lower_segment(
    segment: SegmentType, kernels: KernelSet, capability: tuple[int, int], max_rows: int
) -> NativeSegment:
    """Returns a segment's launches and enters their kernels.

    Args:
        segment: what to lower.
        kernels: takes the kernels.
        capability: compute capability, which decides the tiles.
        max_rows: no step has more rows; kernels for more are left out.
    """
    return _Lowering(segment, kernels, capability, max_rows).lower()


@dataclass(frozen=True)
class _Fused:
    """Nodes that one launch computes: a node, and the SiLU product of its output or None."""

    node: SegmentNode
    product: SegmentNode | None = None

    @property
    def output(self) -> SegmentValue:
        return self.node.output if self.product is None else self.product.output

    @property
    def inputs(self) -> tuple[str, ...]:
        names = (*self.node.inputs, *(() if self.product is None else self.product.inputs))
        return tuple(name for name in names if name is not None and name != self.node.output.name)


class _Lowering:
    def __init__(
        self,
        segment: SegmentType,
        kernels: KernelSet,
        capability: tuple[int, int],
        max_rows: int,
    ) -> None:
        self.segment = segment
        self.kernels = kernels
        self.capability = capability
        self.max_rows = max_rows

    def lower(self) -> NativeSegment:
        groups = fuse_products(self.segment)
        names, scratch = plan_scratch(self.segment, groups)
        launches = []
        for group in groups:
            kernel = group.node.op if group.product is None else "gemm_swiglu"
            launch = getattr(self, f"_{kernel}")(group)
            args = {parameter: names.get(name, name) for parameter, name in launch.args.items()}
            launches.append(dataclasses.replace(launch, args=args))
        return NativeSegment(scratch, tuple(launches))

    def _rms_norm(self, group: _Fused) -> Launch:
        node = group.node
        x, weight, *rest = node.inputs
        args = _present(x=x, weight=weight, inverse=rest[0] if rest else None)
        tile = tiles.row_tile(node.output.columns)
        kernel = self.kernels.add(
            "rms_norm",
            self._types(args, "x", "weight", "inverse") | {"out": POINTERS[node.output.dtype]},
            {"EPSILON": node.epsilon, "COLUMNS": node.output.columns, "BLOCK": tile.block},
            num_warps=tile.num_warps,
        )
        return Launch(args | {"out": node.output.name}, (Variant(None, kernel, 1, 1),))

    def _quantize(self, group: _Fused) -> Launch:
        x, inverse = group.node.inputs
        return self._by_chunks("quantize", _present(x=x, inverse=inverse), group.output)

    def _scale_columns(self, group: _Fused) -> Launch:
        x, factor, inverse = _padded(group.node.inputs, 3)
        args = _present(x=x, factor=factor, inverse=inverse)
        return self._by_chunks("scale_columns", args, group.output, "inverse")

    def _add(self, group: _Fused) -> Launch:
        a, b = group.node.inputs
        return self._by_chunks("add", _present(a=a, b=b), group.output)

    def _by_chunks(
        self, spec: str, args: dict[str, str], output: SegmentValue, *optional: str
    ) -> Launch:
        """A kernel over `[rows, columns]` that takes a chunk of a row at a time.

        Parameters in `optional` need not be among the arguments.
        """
        tile = tiles.chunk_tile(output.columns)
        kernel = self.kernels.add(
            spec,
            self._types(args, *args, *optional) | {"out": POINTERS[output.dtype]},
            {"COLUMNS": output.columns, "BLOCK": tile.block},
            num_warps=tile.num_warps,
        )
        blocks = _ceil(output.columns, tile.block)
        return Launch(args | {"out": output.name}, (Variant(None, kernel, 1, blocks),))

    def _linear(self, group: _Fused) -> Launch:
        node = group.node
        x, weight, scale, bias, residual = _padded(node.inputs, 5)
        num_outputs, depth = self._weight(weight).shape
        args = _present(x=x, weight=weight, scale=scale, bias=bias, residual=residual)
        types = self._types(args, "x", "weight", "scale", "bias", "residual")
        types |= {"y": POINTERS[node.output.dtype], "rows": "i32"}
        operand = OPERANDS.get(node.scheme, node.scheme)
        variants = tiles.gemm_variants(self.capability, operand, num_outputs, depth)
        constants: Constants = {
            "N": num_outputs,
            "K": depth,
            "WEIGHT": WEIGHTS.get(node.scheme, "same"),
        }
        return Launch(
            args | {"y": node.output.name, "rows": ROWS},
            self._variants("gemm", types, constants, variants, num_outputs),
        )

    def _gemm_swiglu(self, group: _Fused) -> Launch:
        node, product = group.node, group.product
        assert product is not None
        x, weight, scale, bias, _ = _padded(node.inputs, 5)
        _, inverse = _padded(product.inputs, 2)
        width, depth = product.output.columns, self._weight(weight).shape[1]
        args = _present(x=x, weight=weight, scale=scale, bias=bias, inverse=inverse)
        types = self._types(args, "x", "weight", "scale", "bias", "inverse")
        types |= {"y": POINTERS[product.output.dtype], "rows": "i32"}
        operand = OPERANDS.get(node.scheme, node.scheme)
        variants = tiles.swiglu_variants(self.capability, operand, width, depth)
        constants: Constants = {"F": width, "K": depth, "WEIGHT": WEIGHTS.get(node.scheme, "same")}
        return Launch(
            args | {"y": product.output.name, "rows": ROWS},
            self._variants("gemm_swiglu", types, constants, variants, width),
        )

    def _variants(
        self,
        spec: str,
        types: Mapping[str, str | None],
        constants: Constants,
        variants: Sequence[tiles.GemmTile],
        columns: int,
    ) -> tuple[Variant, ...]:
        """The kernels of the tiles that some number of rows up to the limit would choose."""
        chosen: list[Variant] = []
        for tile in variants:
            kernel = self.kernels.add(
                spec,
                types,
                {**constants, **tile.constants(), "INTERPRET": False},
                num_warps=tile.num_warps,
                num_stages=tile.num_stages,
            )
            blocks = _ceil(columns, tile.block_n)
            if tile.max_rows is None or tile.max_rows >= self.max_rows:
                return (*chosen, Variant(None, kernel, tile.block_m, blocks))
            chosen.append(Variant(tile.max_rows, kernel, tile.block_m, blocks))
        raise AssertionError(f"no tile of {spec} takes {self.max_rows} rows")

    def _types(self, args: Mapping[str, str], *parameters: str) -> dict[str, str | None]:
        """Pointer types by parameter, None for those that are not among the arguments."""
        return {
            name: POINTERS[self.segment.operand(args[name]).dtype] if name in args else None
            for name in parameters
        }

    def _weight(self, name: str | None) -> SegmentTensor:
        assert name is not None
        operand = self.segment.operand(name)
        assert isinstance(operand, SegmentTensor)
        return operand


def fuse_products(segment: SegmentType) -> list[_Fused]:
    """The segment's nodes in order, a SiLU product with the linear layer that it alone reads."""
    num_reads: dict[str, int] = {output.name: 1 for output in segment.outputs}
    for node in segment.nodes:
        for name in node.inputs:
            if name is not None:
                num_reads[name] = num_reads.get(name, 0) + 1
    products = {node.inputs[0]: node for node in segment.nodes if node.op == "silu_mul"}
    groups = []
    for node in segment.nodes:
        product = products.get(node.output.name)
        if node.op == "silu_mul":
            continue
        if product is None:
            groups.append(_Fused(node))
            continue
        residual = _padded(node.inputs, 5)[4]
        is_fusable = node.op == "linear" and residual is None and num_reads[node.output.name] == 1
        assert is_fusable, f"segment {segment.name}: {product.output.name} has no kernel of its own"
        groups.append(_Fused(node, product))
    return groups


def plan_scratch(
    segment: SegmentType, groups: Sequence[_Fused]
) -> tuple[dict[str, str], tuple[SegmentValue, ...]]:
    """Gives every value that stays inside the segment a scratch value.

    Two of the same dtype and width share one where the first is read no more when the second is
    written.

    Returns:
        The scratch value's name by the value's, and the scratch values.
    """
    last_read = {name: at for at, group in enumerate(groups) for name in group.inputs}
    outputs = {output.name for output in segment.outputs}
    names: dict[str, str] = {}
    busy_until: dict[SegmentValue, int] = {}
    for position, group in enumerate(groups):
        value = group.output
        if value.name in outputs:
            continue
        free = [
            slot
            for slot, until in busy_until.items()
            if until < position and dataclasses.replace(slot, name=value.name) == value
        ]
        slot = free[0] if free else value
        busy_until[slot] = last_read.get(value.name, position)
        names[value.name] = slot.name
    return names, tuple(busy_until)


def _present(**args: str | None) -> dict[str, str]:
    return {name: operand for name, operand in args.items() if operand is not None}


def _padded(inputs: Sequence[str | None], length: int) -> tuple[str | None, ...]:
    """Operands with those left out at the end as None."""
    return (*inputs, *(None,) * (length - len(inputs)))


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)
