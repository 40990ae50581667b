# SPDX-License-Identifier: Apache-2.0
"""How channels of a quantised checkpoint are scaled against those of the model it was made from.

Smoothing (SmoothQuant arXiv:2211.10438, AWQ arXiv:2306.00978) multiplies the columns of a weight by
factors and divides what gives its input by them: the norm before it, or the rows of v_proj before
o_proj and of up_proj before down_proj. The model stays what it was, while inputs and outputs of its
layers are others. Before two layers can be compared the factors must be known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.network import Network, Node
from enginery.builder.network.weight import Weight
from enginery.builder.targets.weight_rows import read_factor
from enginery.float_network import LinearRows

FloatArray = npt.NDArray[np.float32]


class Gauge:
    """Finds the factors layer by layer; its methods are called in the network's order.

    Args:
        reference: the unquantised network, whose layers are run.
        checkpoint: the quantised one.
        reference_checkpoint: that of the unquantised weights.
    """

    def __init__(
        self, reference: Network, checkpoint: Checkpoint, reference_checkpoint: Checkpoint
    ) -> None:
        self._producers = reference.producers()
        self._checkpoints = (checkpoint, reference_checkpoint)
        # What the layer before gave, over what it gives in the reference: of v_proj or of up_proj.
        self._gains: list[FloatArray] = []

    def of_inputs(self, node: Node) -> FloatArray:
        """By what the quantised layer's input is the reference's times it, float32 `[K]`.

        Args:
            node: the layer in the reference.
        """
        weight = node.weight(1)
        ours, theirs = (_smoothing(checkpoint, weight) for checkpoint in self._checkpoints)
        smoothing = _ratio(ours, theirs)
        producer = self._producers[node.value(0).name]
        while producer.op == "scale_columns":
            producer = self._producers[producer.value(0).name]
        if producer.op == "rms_norm":
            name = producer.weight(1).name
            ours, theirs = (checkpoint.read_float32(name) for checkpoint in self._checkpoints)
            return smoothing * _ratio(ours, theirs)
        gains = np.concatenate(self._gains)
        if producer.op == "paged_attention":
            # Heads of queries that share a head of values stand side by side.
            heads = gains.reshape(int(producer.attributes["num_kv_heads"]), -1)
            group = int(producer.attributes["num_heads"]) // len(heads)
            gains = np.repeat(heads, group, axis=0).reshape(-1)
        return smoothing * gains

    def of_outputs(
        self, rows: LinearRows, quantised: Weight, values: FloatArray, inputs: FloatArray
    ) -> FloatArray:
        """By what the quantised layer's outputs are the reference's times it.

        Args:
            rows: of the reference.
            quantised: the same rows of the quantised weight.
            values: what they stand for, float32 `[N, K]`.
            inputs: from `of_inputs`.

        Returns:
            float32 `[N]`, of the interval of `rows`.
        """
        if rows.begin == 0:
            self._gains = []
        weight = rows.node.weight(1)
        weights = (quantised, weight.rows(rows.begin, rows.end))
        ours, theirs = map(_row_factors, self._checkpoints, weights)
        if len(weight.parts) == 1:
            return _ratio(ours, theirs)
        first = weight.shape[0] - weight.parts[-1].num_rows  # of v_proj or up_proj
        scaled = slice(min(max(first - rows.begin, 0), len(values)), len(values))
        gains = np.ones(len(values), np.float32)
        gains[scaled] = _row_gains(
            values[scaled] * inputs / ours[scaled, np.newaxis],
            rows.weight[scaled] / theirs[scaled, np.newaxis],
        )
        self._gains.append(gains[scaled])
        return _ratio(ours, theirs) * gains


def _smoothing(checkpoint: Checkpoint, weight: Weight) -> FloatArray:
    """What a layer's input is multiplied by: layers that are stacked share it."""
    factor = checkpoint.pre_quant_scale(weight.parts[0].tensor)
    return np.ones(weight.shape[1], np.float32) if factor is None else factor


def _row_factors(checkpoint: Checkpoint, weight: Weight) -> FloatArray:
    """What a weight's rows are multiplied by so that the layer after it reads less."""
    factors = [
        np.ones(part.num_rows, np.float32) if factor is None else factor
        for part in weight.parts
        for factor in [read_factor(checkpoint, part)]
    ]
    return np.concatenate(factors)


def _ratio(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """One over the other; 1 where the channel is off in either."""
    is_on = (ours != 0) & (theirs != 0)
    return np.divide(ours, theirs, out=np.ones_like(theirs), where=is_on)


def _row_gains(rows: FloatArray, reference: FloatArray) -> FloatArray:
    """By what each row of `reference` comes nearest to that of `rows`, float32 `[N]`.

    The errors of a whole row average out, so that this adds much less noise than there is.
    """
    products: FloatArray = np.einsum("nk,nk->n", rows, reference)
    powers: FloatArray = np.einsum("nk,nk->n", reference, reference)
    is_known = (products > 0) & (powers > 0)
    return np.divide(products, powers, out=np.ones_like(powers), where=is_known)
