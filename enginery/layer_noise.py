# SPDX-License-Identifier: Apache-2.0
"""What quantising each linear layer alone adds to its output, as a signal-to-noise ratio.

    snr_db = 10 log10(sum y^2 / sum (y_q - y)^2)    y = x W^T    y_q = Q(x) Q(W)^T

x is what the layer reads in the unquantised model, so that errors of the layers before it, which
the figures of the whole engine contain, play no part: it says where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginery.builder.build import PlannedBuild
from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.models.decoder import LM_HEAD
from enginery.builder.network.network import Network, Node
from enginery.builder.network.passes.quantize import LOGITS
from enginery.builder.options import BuildOptions
from enginery.builder.targets.code_rows import dequantised_rows, input_scale
from enginery.float_network import LinearRows, run_network
from enginery.gauge import Gauge
from enginery.quantization import (
    SCHEMES,
    dequantize_int8,
    e4m3_to_float32,
    float32_to_e4m3,
    quantize_int8,
    round_to,
    widen,
)

FloatArray = npt.NDArray[np.float32]

CODE_DTYPES = ("i8", "i4", "f8e4m3")
F16_MAX = np.float32(np.finfo(np.float16).max)
# A layer that gives only zeros has a ratio all the same.
LEAST_POWER = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class LayerNoise:
    """One linear layer.

    Attributes:
        name: of the module in the checkpoint, e.g. "model.layers.0.mlp.down_proj"; of layers that
            are one in the engine the name that the engine has for them ("...qkv_proj").
        parts: the modules of the checkpoint that it consists of.
        dtype: of its weights in the engine.
        activation_dtype: of what they are multiplied with.
        snr_db: signal to noise, in dB; None where nothing is lost.
        noise_share: the layer's part, from 0 to 1, of the sum over layers of noise / signal.
    """

    name: str
    parts: tuple[str, ...]
    dtype: str
    activation_dtype: str
    snr_db: float | None
    noise_share: float

    @property
    def is_quantised(self) -> bool:
        """Whether it could be left in the build dtype and is not."""
        return self.dtype in CODE_DTYPES


def measure_layers(
    planned: PlannedBuild, reference: PlannedBuild, token_ids: Sequence[int]
) -> list[LayerNoise]:
    """Measures every linear layer of an engine on one window of text, the worst first.

    Args:
        planned: how the engine is built; its checkpoint has the weights that it quantises.
        reference: how the unquantised engine is built: the same layers, from weights that need not
            be in the same directory.
        token_ids: the window, from the first position on.
    """
    is_other = planned.request.model.resolve() != reference.request.model.resolve()
    with (
        Checkpoint(reference.request.model, reference.config.stored_as) as weights,
        Checkpoint(planned.request.model, planned.config.stored_as) as quantised,
    ):
        gauge = Gauge(reference.network, quantised, weights) if is_other else None
        meter = NoiseMeter(planned.network, planned.options, quantised, gauge)
        run_network(reference.network, weights, token_ids, meter.watch)
    return meter.layers()


class NoiseMeter:
    """Sums signal and noise of the layers of a network that runs.

    Args:
        network: the engine's, after all passes; layers have the names that they have there.
        options: of the engine.
        checkpoint: that of the engine.
        gauge: what its channels are scaled by against those of the network that runs; None where
            both have one checkpoint.
    """

    def __init__(
        self,
        network: Network,
        options: BuildOptions,
        checkpoint: Checkpoint,
        gauge: Gauge | None = None,
    ) -> None:
        self._layers = {node.output.name: node for node in network.nodes if node.op == "linear"}
        self._options = options
        self._checkpoint = checkpoint
        self._gauge = gauge
        self._signal = dict.fromkeys(self._layers, 0.0)
        self._noise = dict.fromkeys(self._layers, 0.0)
        self._inputs = self._operand = np.empty(0, np.float32)

    def watch(self, rows: LinearRows) -> None:
        """Adds some outputs of a layer; see `enginery.float_network.run_network`."""
        name = rows.node.output.name
        layer = self._layers[name]
        if rows.begin == 0:
            self._start(layer, rows)
        weight = layer.weight(1).rows(rows.begin, rows.end)
        values = dequantised_rows(self._checkpoint, weight)
        error = self._operand @ values.T
        if self._gauge is not None:
            error /= self._gauge.of_outputs(rows, weight, values, self._inputs)
        error -= rows.y
        self._signal[name] += _power(rows.y)
        self._noise[name] += _power(error)

    def layers(self) -> list[LayerNoise]:
        """What was summed so far, the worst layer first."""
        ratios = {
            name: noise / max(self._signal[name], LEAST_POWER)
            for name, noise in self._noise.items()
        }
        total = sum(ratios.values())
        found = [_layer_noise(self._layers[name], ratio, total) for name, ratio in ratios.items()]
        # Equal ones stay in the order of the network.
        return sorted(found, key=lambda layer: -layer.noise_share)

    def _start(self, layer: Node, rows: LinearRows) -> None:
        """Makes what all outputs of a layer are computed from."""
        x = rows.x
        if self._gauge is not None:
            self._inputs = self._gauge.of_inputs(rows.node)
            x = x * self._inputs
        dtype, scale = layer.value(0).dtype, None
        if dtype in ("i8", "f8e4m3") and SCHEMES[self._options.qformat].has_input_scales:
            scale = input_scale(self._checkpoint, layer.weight(1))[0]
        self._operand = rounded_operand(x, dtype, scale)


def rounded_operand(x: FloatArray, dtype: str, scale: np.float32 | None = None) -> FloatArray:
    """The values that a linear layer multiplies instead of x.

    Args:
        x: float32 `[tokens, K]`.
        dtype: of the layer's operand. A float is rounded, and float16 saturated.
        scale: the static one of codes; None scales each token's INT8 by its largest magnitude.

    Returns:
        float32 `[tokens, K]`.
    """
    if dtype == "i8" and scale is None:
        return dequantize_int8(quantize_int8(x, "activations"))
    if scale is None:
        finite = np.clip(x, -F16_MAX, F16_MAX) if dtype == "f16" else x
        return widen(round_to(finite, dtype))
    # Engines multiply by the reciprocal.
    codes = x * (np.float32(1) / scale)
    if dtype == "i8":
        np.rint(codes, out=codes)
        np.clip(codes, -128, 127, out=codes)
        return codes * scale
    assert dtype == "f8e4m3", dtype
    return e4m3_to_float32(float32_to_e4m3(codes)) * scale


def _layer_noise(layer: Node, ratio: float, total: float) -> LayerNoise:
    weight = layer.weight(1)
    # A tied output projection has a module, though its weight is the embedding's.
    is_logits = layer.output.name == LOGITS
    parts = [LM_HEAD] if is_logits else [part.tensor for part in weight.parts]
    return LayerNoise(
        name=_module(LM_HEAD if is_logits else weight.name),
        parts=tuple(_module(part) for part in parts),
        dtype=weight.dtype,
        activation_dtype=layer.value(0).dtype,
        snr_db=-10 * math.log10(ratio) if ratio else None,
        noise_share=ratio / total if total else 0.0,
    )


def _module(weight: str) -> str:
    return weight.removesuffix(".weight")


def _power(values: FloatArray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
