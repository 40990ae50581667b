# SPDX-License-Identifier: Apache-2.0
"""The tensors of a `cpu` program: which there are, and how their bytes are made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.scales import read_kv_scale
from enginery.builder.engine.program import INT4, PANEL, Tensor
from enginery.builder.network.network import Network, Value
from enginery.builder.network.weight import Weight
from enginery.builder.options import BuildOptions
from enginery.builder.targets.code_rows import input_scale
from enginery.builder.targets.cpu.packing import PackedRows, pack_rows
from enginery.builder.targets.rope import inverse_frequencies
from enginery.builder.targets.weight_rows import NUM_THREADS, pieces
from enginery.quantization import CODE_KV_DTYPES, SCHEMES

PACKED_LAYOUTS = {"f32": "n16k1", "bf16": "n16k2", "f8e4m3": "n16k2", "i8": "n16k4", INT4: "n16k8"}


@dataclass(frozen=True)
class PackedWeight:
    """The tensors of one weight; those beside `data` where its dtype and its reader have them.

    Attributes:
        weight: in the network.
        sharing: where its operand is quantised by scales of the checkpoint, all weights that are
            multiplied with it, this one included; else none. `scale` holds that scale as a factor.
    """

    weight: Weight
    sharing: tuple[Weight, ...]
    data: Tensor
    scale: Tensor | None = None
    column_sums: Tensor | None = None
    group_scales: Tensor | None = None
    inverse: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are there, in file order."""
        rest = (self.scale, self.column_sums, self.group_scales, self.inverse)
        return [self.data, *(tensor for tensor in rest if tensor is not None)]


class Constants:
    """All tensors of a network's program, in the order in which its nodes first use them.

    Attributes:
        tensors: in file order.
        inv_freq: inverse frequencies of the rotary embedding, f32 `[head_dim / 2]`.
        inverses: by name of a value that is quantised statically, what it is multiplied by to be.
        kv_scales: for each layer the scales of its keys and of its values, f32 `[1]`; empty where
            the KV cache is not quantised.
    """

    def __init__(self, network: Network, options: BuildOptions) -> None:
        config = network.config
        self._frequencies = inverse_frequencies(config.rope, config.head_dim)
        self.inv_freq = Tensor("rope.inv_freq", "f32", "rows", self._frequencies.shape)
        num_scaled = config.num_layers if options.kv_cache_dtype in CODE_KV_DTYPES else 0
        self.kv_scales = [
            tuple(Tensor(f"layers.{layer}.{which}_scale", "f32", "rows", (1,)) for which in "kv")
            for layer in range(num_scaled)
        ]
        self._weights: dict[Weight, PackedWeight] = {}
        operands = _operands(network)
        sharing: dict[Value, list[Weight]] = {}  # of static operands
        if SCHEMES[options.qformat].has_input_scales:
            for weight, x in operands.items():
                sharing.setdefault(x, []).append(weight)
        for node in network.nodes:
            for constant in node.inputs:
                if isinstance(constant, Weight) and constant not in self._weights:
                    operand = operands.get(constant)
                    others = sharing.get(operand, []) if operand is not None else []
                    self._weights[constant] = _packed(constant, operand, others)
        self.inverses = {
            x.name: packed.inverse
            for weight, x in operands.items()
            if (packed := self._weights[weight]).inverse is not None
        }
        weights = self._weights.values()
        self.tensors = (
            self.inv_freq,
            *(tensor for scales in self.kv_scales for tensor in scales),
            *(tensor for packed in weights for tensor in packed.tensors),
        )
        assert len({tensor.name for tensor in self.tensors}) == len(self.tensors)

    def packed(self, weight: Weight) -> PackedWeight:
        """The tensors of a weight of the network."""
        return self._weights[weight]

    def pack(self, checkpoint: Checkpoint) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yields the tensors' bytes; see `enginery.builder.targets.target.WeightStream`."""
        yield 0, _bytes(self._frequencies)
        index = 1
        for layer in range(len(self.kv_scales)):
            for which in "kv":
                yield index, _bytes(np.array([read_kv_scale(checkpoint, layer, which)]))
                index += 1
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for packed in self._weights.values():
                rest: list[PackedRows] = []
                for piece in _pieces(pool, checkpoint, packed):
                    yield index, _bytes(piece.data)
                    rest.append(piece._replace(data=np.empty(0)))
                index += 1
                if packed.scale is not None:
                    scale = _joined([piece.scale for piece in rest])
                    if packed.sharing:
                        scale = np.multiply(scale, input_scale(checkpoint, *packed.sharing))
                    yield index, _bytes(scale)
                    index += 1
                if packed.column_sums is not None:
                    yield index, _bytes(_joined([piece.column_sums for piece in rest]))
                    index += 1
                if packed.group_scales is not None:
                    yield index, _bytes(_joined([piece.group_scales for piece in rest]))
                    index += 1
                if packed.inverse is not None:
                    yield index, _bytes(np.float32(1) / input_scale(checkpoint, *packed.sharing))
                    index += 1


def _operands(network: Network) -> dict[Weight, Value]:
    """What each weight of a linear layer is multiplied with, before any of its rows left it."""
    producers = network.producers()
    operands: dict[Weight, Value] = {}
    for node in network.nodes:
        if node.op == "linear":
            x = producers[node.value(0).name]
            operands[node.weight(1)] = x.value(0) if x.op == "gather_rows" else x.output
    return operands


def _packed(weight: Weight, x: Value | None, sharing: Sequence[Weight]) -> PackedWeight:
    """The tensors of a weight that is multiplied with `x`, if it is; `sharing` where x is static.

    The inverse of the scale of x is one tensor, beside the first of the weights that share x.
    """
    layout = "rows" if x is None else PACKED_LAYOUTS[weight.dtype]
    has_codes = weight.dtype in ("i8", "f8e4m3", INT4)
    has_static_operand = bool(sharing) and has_codes

    def tensor(name: str, dtype: str, layout: str = "rows", shape: tuple[int, ...] = ()) -> Tensor:
        return Tensor(f"{weight.name}.{name}", dtype, layout, shape or weight.shape[:1])

    scale = sums = group_scales = inverse = None
    # INT4 may have the scales of its groups alone.
    product_dtype = None if weight.blocks is None else weight.blocks.product_dtype
    if has_codes and (weight.dtype != INT4 or product_dtype is not None):
        scale = tensor("scale", "f32")
    if has_codes and x is not None and x.dtype == "i8":
        sums = tensor("column_sums", "i32")
    if weight.dtype == INT4:
        assert weight.blocks is not None
        groups = (weight.shape[0], -(-weight.shape[1] // weight.blocks.size))
        dtype = "i8" if product_dtype == "i8" else "f32"
        group_scales = tensor("group_scales", dtype, "n16k1", groups)
    if has_static_operand and weight == sharing[0]:
        inverse = tensor("inverse", "f32", shape=(1,))
    return PackedWeight(
        weight,
        tuple(sharing) if has_static_operand else (),
        Tensor(weight.name, weight.dtype, layout, weight.shape),
        scale,
        sums,
        group_scales,
        inverse,
    )


def _pieces(
    pool: ThreadPoolExecutor, checkpoint: Checkpoint, packed: PackedWeight
) -> Iterator[PackedRows]:
    make = functools.partial(pack_rows, checkpoint, packed.weight, packed.data.layout)
    return pieces(pool, packed.weight, make, multiple=PANEL)


def _joined(arrays: list[npt.NDArray[np.generic] | None]) -> npt.NDArray[np.generic]:
    return np.concatenate([array for array in arrays if array is not None])


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return array.data.cast("B")
