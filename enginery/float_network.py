# SPDX-License-Identifier: Apache-2.0
"""A network over one window of text in numpy float32, layer by layer.

Slow and plain: it shows what every linear layer reads and gives in the unquantised model. A value
is dropped after its last reader and weights are read in pieces, so that memory does not grow with
the number of layers or the size of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from enginery.builder.checkpoint.checkpoint import Checkpoint
from enginery.builder.network.network import Network, Node, Value
from enginery.builder.targets.rope import inverse_frequencies, rope_scale
from enginery.builder.targets.weight_rows import NUM_THREADS, pieces, read_float32

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LinearRows:
    """Some of a linear layer's outputs, for all tokens.

    Attributes:
        node: the layer.
        begin, end: half-open interval of its outputs.
        x: what it reads, float32 `[tokens, K]`; the same array for all of a layer's intervals.
        weight: float32 `[end - begin, K]`.
        y: x weight^T, float32 `[tokens, end - begin]`, without bias and residual.
    """

    node: Node
    begin: int
    end: int
    x: FloatArray
    weight: FloatArray
    y: FloatArray


Watch = Callable[[LinearRows], None]


def run_network(
    network: Network, checkpoint: Checkpoint, token_ids: Sequence[int], watch: Watch
) -> None:
    """Evaluates a network from its embedding to its logits.

    Logits are computed for every token and kept for none: `watch` sees them, as the outputs of the
    layer named "logits".

    Args:
        network: fused and of one rank. What its dtypes round is not rounded here.
        checkpoint: its weights, not quantised.
        token_ids: a sequence from its first position on.
        watch: called with the outputs of every linear layer, in order, a few rows of its weight at
            a time. It must not change the arrays.
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        _Run(network, checkpoint, token_ids, watch, pool).run()


class _Run:
    def __init__(
        self,
        network: Network,
        checkpoint: Checkpoint,
        token_ids: Sequence[int],
        watch: Watch,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._network = network
        self._checkpoint = checkpoint
        self._token_ids = token_ids
        self._watch = watch
        self._pool = pool
        self._values: dict[str, FloatArray] = {}

        rope, head_dim = network.config.rope, network.config.head_dim
        positions = np.arange(len(token_ids), dtype=np.float32)
        angles = positions[:, np.newaxis] * inverse_frequencies(rope, head_dim)
        factor = np.float32(rope_scale(rope))
        # [tokens, 1, head_dim / 2]: the same for every head.
        self._cos = np.cos(angles)[:, np.newaxis] * factor
        self._sin = np.sin(angles)[:, np.newaxis] * factor

    def run(self) -> None:
        last_reader = {
            operand.name: node.output.name
            for node in self._network.nodes
            for operand in node.inputs
            if isinstance(operand, Value)
        }
        for node in self._network.nodes:
            result = getattr(self, f"_{node.op}")(node)
            for operand in node.inputs:
                if isinstance(operand, Value) and last_reader[operand.name] == node.output.name:
                    self._values.pop(operand.name, None)
            if node.output.name in last_reader:
                self._values[node.output.name] = result

    def _value(self, node: Node, index: int) -> FloatArray:
        return self._values[node.value(index).name]

    def _vector(self, node: Node, index: int) -> FloatArray:
        """A weight of rank 1."""
        return read_float32(self._checkpoint, node.weight(index))

    def _embed(self, node: Node) -> FloatArray:
        weight = node.weight(0)
        rows = [read_float32(self._checkpoint, weight.rows(i, i + 1)) for i in self._token_ids]
        return np.concatenate(rows)

    def _rms_norm(self, node: Node) -> FloatArray:
        x, weight = self._value(node, 0), self._vector(node, 1)
        return _rms_norm(x, weight, float(node.attributes["epsilon"]))

    def _scale_columns(self, node: Node) -> FloatArray:
        scaled: FloatArray = self._value(node, 0) * self._vector(node, 1)
        return scaled

    def _linear(self, node: Node) -> FloatArray | None:
        x, weight = self._value(node, 0), node.weight(1)
        # Nobody reads logits here, and they are as wide as the vocabulary.
        is_read = node is not self._network.nodes[-1]
        result = np.empty((len(x), weight.shape[0]), np.float32) if is_read else None

        def read(begin: int, end: int) -> tuple[int, int, FloatArray]:
            return begin, end, read_float32(self._checkpoint, weight.rows(begin, end))

        for begin, end, rows in pieces(self._pool, weight, read):
            y = x @ rows.T
            self._watch(LinearRows(node, begin, end, x, rows, y))
            if result is not None:
                result[:, begin:end] = y
        if result is not None:
            if node.inputs[2] is not None:
                result += self._vector(node, 2)
            if node.inputs[3] is not None:
                result += self._value(node, 3)
        return result

    def _kv_append(self, node: Node) -> FloatArray:
        """As the op; `_paged_attention` reads keys and values from its output.

        The window is all of the sequence, so that no cache has anything else.
        """
        num_heads, num_kv_heads = _num_heads(node)
        qkv = self._value(node, 0)
        heads = qkv.reshape(len(qkv), num_heads + 2 * num_kv_heads, -1)
        q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
        appended = np.concatenate([q, self._rotated(node, k, 1), v], axis=1)
        result: FloatArray = appended.reshape(qkv.shape)
        return result

    def _rotated(self, node: Node, x: FloatArray, norm: int) -> FloatArray:
        """Heads `[tokens, heads, head_dim]`, normed by input `norm` if it is there, and rotated."""
        if node.inputs[norm] is not None:
            x = _rms_norm(x, self._vector(node, norm), float(node.attributes["epsilon"]))
        first, second = np.split(x, 2, axis=-1)
        cos, sin = self._cos, self._sin
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def _paged_attention(self, node: Node) -> FloatArray:
        num_heads, num_kv_heads = _num_heads(node)
        qkv = self._value(node, 1)
        heads = qkv.reshape(len(qkv), num_heads + 2 * num_kv_heads, -1)
        q, k, v = np.split(heads, [num_heads, num_heads + num_kv_heads], axis=1)
        # [heads, tokens, head_dim]
        q, k, v = (x.transpose(1, 0, 2) for x in (self._rotated(node, q, 2), k, v))
        position = np.arange(len(qkv))
        distance = position[:, np.newaxis] - position
        is_hidden = distance < 0
        if window := int(node.attributes["sliding_window"]):
            is_hidden |= distance >= window
        group = num_heads // num_kv_heads
        scale = np.float32(q.shape[2] ** -0.5)
        attended = np.empty_like(q)
        for head in range(num_kv_heads):
            queries = slice(head * group, (head + 1) * group)
            scores = q[queries] @ k[head].T
            scores *= scale
            scores[:, is_hidden] = -np.inf
            scores -= scores.max(axis=-1, keepdims=True)
            weights = np.exp(scores)
            weights /= weights.sum(axis=-1, keepdims=True)
            attended[queries] = weights @ v[head]
        result: FloatArray = attended.transpose(1, 0, 2).reshape(len(qkv), -1)
        return result

    def _silu_mul(self, node: Node) -> FloatArray:
        gate, up = np.split(self._value(node, 0), 2, axis=1)
        with np.errstate(over="ignore"):  # exp of a large -gate is infinite, and silu then zero
            result: FloatArray = gate / (np.float32(1) + np.exp(-gate)) * up
        return result

    def _add(self, node: Node) -> FloatArray:
        return self._value(node, 0) + self._value(node, 1)

    def _gather_rows(self, node: Node) -> FloatArray:
        return self._value(node, 0)  # all rows want logits


def _num_heads(node: Node) -> tuple[int, int]:
    return int(node.attributes["num_heads"]), int(node.attributes["num_kv_heads"])


def _rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> FloatArray:
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    normed: FloatArray = x / np.sqrt(mean + np.float32(epsilon)) * weight
    return normed
