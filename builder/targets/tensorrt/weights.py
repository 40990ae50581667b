# SPDX-License-Identifier: Apache-2.0
"""The tensors of a `tensorrt` program: which there are, and how their bytes are made."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.checkpoint.config import ModelConfig
from enginery.builder.checkpoint.scales import read_kv_scale
from enginery.builder.engine.program import Tensor
from enginery.builder.network.weight import Weight
from enginery.builder.options import ENGINE_DTYPES, BuildOptions
from enginery.builder.targets.code_rows import input_scale
from enginery.builder.targets.rope import inverse_frequencies
from enginery.builder.targets.tensorrt.constant import Constant
from enginery.builder.targets.tensorrt.cut import CutNetwork
from enginery.builder.targets.tensorrt.quantized_rows import stored_rows
from enginery.builder.targets.weight_rows import NUM_THREADS, pieces
from enginery.quantization import SCHEMES


class Weights:
    """All tensors of a cut network's program, in the order in which its steps first read them.

    Attributes:
        tensors: the program's tensor of each constant, in file order.
    """

    def __init__(self, network: CutNetwork, config: ModelConfig, options: BuildOptions) -> None:
        self.config = config
        self.qformat = options.qformat
        self.act = ENGINE_DTYPES[options.dtype]
        constants: dict[Constant, None] = {}
        for step in network.steps:
            for item in step.inputs:
                if isinstance(item, Constant):
                    constants[item] = None
        self.tensors: Mapping[Constant, Tensor] = {
            constant: Tensor(constant.name, constant.dtype, "rows", constant.shape)
            for constant in constants
        }
        assert len({constant.name for constant in constants}) == len(constants)

    def pack(self, checkpoint: Checkpoint) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yields the tensors' bytes; see `enginery.builder.targets.target.WeightStream`."""
        scales: dict[Weight, npt.NDArray[Any]] = {}
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for index, constant in enumerate(self.tensors):
                weight = constant.weight
                if weight is None:
                    yield index, _bytes(self._of_model(checkpoint, constant))
                elif constant.role == "inverse":
                    yield index, _bytes(np.float32(1) / input_scale(checkpoint, weight))
                elif constant.role == "scale":
                    # Made with the codes, which stand before it.
                    yield index, _bytes(self._scale(checkpoint, weight, scales.pop(weight)))
                else:
                    rest = []
                    make = functools.partial(
                        stored_rows, checkpoint, weight, self.qformat, self.act
                    )
                    for piece in pieces(pool, weight, make):
                        yield index, _bytes(piece.data)
                        rest += [] if piece.scale is None else [piece.scale]
                    if rest:
                        scales[weight] = np.concatenate(rest)
        assert not scales

    def _of_model(self, checkpoint: Checkpoint, constant: Constant) -> npt.NDArray[np.float32]:
        if constant.role == "inv_freq":
            return inverse_frequencies(self.config.rope, self.config.head_dim)
        return np.array([read_kv_scale(checkpoint, constant.layer, constant.role[0])])

    def _scale(
        self, checkpoint: Checkpoint, weight: Weight, scale: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """The stored scale: where activations have codes too, of both together."""
        if not SCHEMES[self.qformat].has_input_scales:
            return scale
        return scale * input_scale(checkpoint, weight)


def _bytes(array: npt.NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
